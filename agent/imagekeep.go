package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/podman"
	"github.com/understudy-ha/understudy/replication/image"
)

// imageKeeper looks after the images that services need: what a power cut has damaged is
// found and loaded anew from what was kept of it when it arrived, and what no service
// needs any more goes after a while.
type imageKeeper struct {
	client *podman.Client
	spool  string // for archives
	marks  string // one file per image that was read through since the node booted
	log    *slog.Logger
	wake   chan struct{}

	vaultMu sync.Mutex // guards the use of vault
	vault   *image.Vault

	mu       sync.Mutex           // guards what follows
	asked    map[string]bool      // to be read through
	tried    map[string]time.Time // could not be, then
	damaged  map[string]bool
	repaired map[string]bool // and was not whole afterwards
}

// retryRead is when an image that could not be read through is tried again.
const retryRead = 10 * time.Minute

// newImageKeeper keeps archives below the store and marks below runDir, which a boot empties.
func newImageKeeper(store, runDir string, client *podman.Client, log *slog.Logger) (*imageKeeper, error) {
	v, err := image.OpenVault(filepath.Join(store, "vault"))
	if err != nil {
		return nil, err
	}
	k := &imageKeeper{
		client: client, vault: v, spool: filepath.Join(store, "spool"), marks: filepath.Join(runDir, "images-read"),
		log: log, wake: make(chan struct{}, 1),
		asked: map[string]bool{}, tried: map[string]time.Time{}, damaged: map[string]bool{}, repaired: map[string]bool{},
	}
	left, _ := filepath.Glob(filepath.Join(k.spool, "kept-*.tar")) // of an agent that was killed
	for _, path := range left {
		_ = os.Remove(path)
	}
	return k, os.MkdirAll(k.marks, 0o700)
}

// run reads images through, one after the other, until ctx ends: whoever needs them
// does not wait for it.
func (k *imageKeeper) run(ctx context.Context) {
	for {
		for id := k.next(); id != "" && ctx.Err() == nil; id = k.next() {
			k.verify(ctx, id)
		}
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		}
	}
}

func (k *imageKeeper) next() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range k.asked {
		delete(k.asked, id)
		return id
	}
	return ""
}

func (k *imageKeeper) verify(ctx context.Context, id string) {
	began := time.Now()
	err := k.client.VerifyImage(ctx, id)
	if errors.Is(err, podman.ErrDamaged) { // an image is not thrown away for one reading
		err = k.client.VerifyImage(ctx, id)
	}
	switch {
	case errors.Is(err, podman.ErrDamaged):
		k.mu.Lock()
		k.damaged[id] = true
		k.mu.Unlock()
		k.log.Warn("an image is damaged in Podman's storage", "image", id, "error", err)
	case err == nil:
		k.settled(id, nil)
		k.log.Debug("image read through", "image", id, "took", time.Since(began))
	case ctx.Err() == nil && !errors.Is(err, podman.ErrNotFound):
		k.mu.Lock()
		k.tried[id] = time.Now()
		k.mu.Unlock()
		k.log.Warn("an image cannot be read through; it is tried again", "image", id, "in", retryRead, "error", err)
	}
}

func (k *imageKeeper) mark(id string) {
	if err := os.WriteFile(filepath.Join(k.marks, id), nil, 0o600); err != nil {
		k.log.Warn("it cannot be noted that an image is whole; it is read again", "image", id, "error", err)
	}
}

// Damaged are those of the images that are known to be damaged. Ones that were not read
// through since the node booted are, in the background.
func (k *imageKeeper) Damaged(ids []string) []string {
	var bad []string
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		if k.damaged[id] {
			bad = append(bad, id)
			continue
		}
		if at, ok := k.tried[id]; ok && time.Since(at) < retryRead {
			continue
		}
		if _, err := os.Stat(filepath.Join(k.marks, id)); errors.Is(err, fs.ErrNotExist) {
			k.asked[id] = true
		}
	}
	select {
	case k.wake <- struct{}{}:
	default:
	}
	return bad
}

// Repair loads a damaged image anew from what is kept of it. What is not kept of it is
// sent again, for it is gone from the node afterwards. mine are the service's images: a
// layer that several of them have is only replaced when all of them are removed.
func (k *imageKeeper) Repair(ctx context.Context, id string, mine []string) (reloaded bool, err error) {
	k.mu.Lock()
	together := k.repaired[id]
	k.repaired[id] = true
	k.mu.Unlock()
	for {
		group := []string{id}
		if together {
			others, err := k.client.Sharing(ctx, id, mine)
			if err != nil {
				return false, err
			}
			group = append(group, others...)
		}
		if err := k.client.DropDamaged(ctx, group); err != nil {
			return false, err
		}
		for _, one := range group {
			whole, err := k.reload(ctx, one)
			if err != nil {
				return false, err
			}
			reloaded = reloaded || one == id && whole
		}
		err := k.client.VerifyImage(ctx, id)
		if !errors.Is(err, podman.ErrDamaged) {
			k.settled(id, err)
			return reloaded, nil
		}
		if together {
			return false, errors.New("it is damaged again as soon as it is loaded: look for errors of the disk")
		}
		together = true
	}
}

// settled: the image is whole, or could not be read, or is gone: then it is sent again, and
// may come on top of a damaged layer that other images have too.
func (k *imageKeeper) settled(id string, verified error) {
	k.mu.Lock()
	delete(k.damaged, id)
	if verified == nil {
		delete(k.repaired, id)
	}
	k.mu.Unlock()
	if verified == nil {
		k.mark(id)
	}
}

// reload loads what is kept of an image; false: not enough of it is.
func (k *imageKeeper) reload(ctx context.Context, id string) (bool, error) {
	if err := os.MkdirAll(k.spool, 0o700); err != nil {
		return false, err
	}
	f, err := os.CreateTemp(k.spool, "kept-*.tar")
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name())
	k.vaultMu.Lock()
	info, err := k.vault.Write(f, id)
	k.vaultMu.Unlock()
	err = errors.Join(err, f.Close())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, image.ErrArchive) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if _, err := k.client.Bring(ctx, f.Name(), id); err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		k.log.Warn("what is kept of an image is not enough to load it; it is sent again", "image", id, "layers", len(info.Layers), "error", err)
		return false, nil
	}
	return true, nil
}

// keep takes what an archive has of an image into the vault, and says whether that is all
// of the image. It is no harm when it fails: then a damaged image is sent again.
func (k *imageKeeper) keep(path string) (whole bool) {
	info, err := k.add(path)
	if err != nil {
		k.log.Warn("an image that arrived cannot be kept for a repair; it will be sent again if it is damaged", "error", err)
		return false
	}
	return !slices.ContainsFunc(info.Layers, func(l image.Layer) bool { return !l.Present })
}

func (k *imageKeeper) add(path string) (image.Info, error) {
	k.vaultMu.Lock()
	defer k.vaultMu.Unlock()
	f, err := os.Open(path)
	if err != nil {
		return image.Info{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return image.Info{}, err
	}
	return k.vault.Add(f, st.Size())
}

// loaded: the image arrived, all of it, and is durable. Nobody needs to read it through
// before the next boot, unless it came on top of what may be damaged.
func (k *imageKeeper) loaded(id string) {
	k.mu.Lock()
	suspect := k.repaired[id]
	k.mu.Unlock()
	if !suspect {
		k.mark(id)
	}
}
