package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// prune removes images that Understudy brought and nobody has needed for so long.
func (k *imageKeeper) prune(ctx context.Context, needed []string, after time.Duration) ([]string, error) {
	dropped, err := k.client.PruneImages(ctx, needed, after, time.Now())
	for _, id := range dropped {
		if err := os.Remove(filepath.Join(k.marks, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.log.Warn("a mark cannot be removed", "image", id, "error", err)
		}
	}
	if err != nil {
		return dropped, err
	}
	here, err := k.client.Images(ctx)
	if err != nil {
		return dropped, err
	}
	k.vaultMu.Lock()
	defer k.vaultMu.Unlock()
	_, err = k.vault.Prune(func(id string) bool { return slices.Contains(needed, id) || slices.Contains(here, id) })
	return dropped, err
}

// pruneEvery is how often unused images are looked for; more often where they go soon.
const pruneEvery = 10 * time.Minute

// pruneImages removes what no service on this node needs any more, if that is wanted.
func (a *Agent) pruneImages(ctx context.Context) {
	after := a.conf.Limits.UnusedImages
	if after == 0 {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(pruneEvery, max(after/4, time.Second))):
		}
		needed, err := a.neededImages()
		var dropped []string
		if err == nil {
			dropped, err = a.images.prune(ctx, needed, after)
		}
		for _, id := range dropped {
			a.journal.Record(api.Decision{
				At: a.now(), Node: a.conf.Node, Event: api.EventReplication,
				Reason: fmt.Sprintf("image %s, which Understudy had brought here, is removed: no service has needed it for %s", id, after),
			})
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("unused images cannot be removed", "error", err)
		}
	}
}

// neededImages are the images of all services that this node has a store of, whatever
// their role.
func (a *Agent) neededImages() ([]string, error) {
	var out []string
	for _, s := range a.list() {
		m, err := s.engine.HeadManifest()
		if err != nil {
			return nil, err
		}
		if m != nil {
			out = append(out, m.Images...)
		}
	}
	return out, nil
}
