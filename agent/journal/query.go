package journal

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// Query returns the newest entries, at most limit of them (0: all), in the
// order they were recorded. An empty service means all; since, when not zero,
// leaves out entries whose time is earlier.
func (j *Journal) Query(service string, since time.Time, limit int) ([]api.Decision, error) {
	segs, err := list(j.opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("read decision journal: %w", err)
	}
	var out []api.Decision // newest first
	for _, s := range slices.Backward(segs) {
		entries, err := readSegment(s.path)
		if err != nil {
			return nil, fmt.Errorf("read decision journal: %w", err)
		}
		for _, d := range slices.Backward(entries) {
			if service != "" && d.Service != service || !since.IsZero() && d.At.Before(since) {
				continue
			}
			if out = append(out, d); len(out) == limit {
				slices.Reverse(out)
				return out, nil
			}
		}
	}
	slices.Reverse(out)
	return out, nil
}

// Follow delivers every entry recorded from now on, in order and without a gap,
// however slowly it is read: a slow reader costs a look into the files, not
// memory. The channel is closed when ctx ends or the journal is closed.
func (j *Journal) Follow(ctx context.Context) <-chan api.Decision {
	out := make(chan api.Decision)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		close(out)
		return out
	}
	after := j.next - 1
	j.wg.Go(func() {
		defer close(out)
		j.follow(ctx, after, out)
	})
	return out
}

func (j *Journal) follow(ctx context.Context, after uint64, out chan<- api.Decision) {
	for {
		entries, changed, err := j.since(after)
		if err != nil {
			j.opts.Log.Error("decision journal can no longer be followed", "err", err)
			return
		}
		for _, d := range entries {
			select {
			case out <- d:
				after = d.Seq
			case <-ctx.Done():
				return
			case <-j.done:
				return
			}
		}
		if len(entries) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-j.done:
			return
		}
	}
}

// since returns entries after a sequence number, and a channel that is closed
// when there are more.
func (j *Journal) since(after uint64) ([]api.Decision, <-chan struct{}, error) {
	j.mu.Lock()
	changed, recent, next := j.changed, j.recent, j.next
	j.mu.Unlock()
	if after+1 >= next {
		return nil, changed, nil
	}
	if len(recent) > 0 && recent[0].Seq <= after+1 {
		return newer(recent, after), changed, nil
	}
	segs, err := list(j.opts.Dir)
	if err != nil {
		return nil, nil, err
	}
	for i, s := range segs {
		if i+1 < len(segs) && segs[i+1].first <= after+1 {
			continue
		}
		entries, err := readSegment(s.path)
		if err != nil {
			return nil, nil, err
		}
		if entries = newer(entries, after); len(entries) > 0 {
			return entries, changed, nil
		}
	}
	return newer(recent, after), changed, nil
}

func newer(entries []api.Decision, after uint64) []api.Decision {
	i := sort.Search(len(entries), func(i int) bool { return entries[i].Seq > after })
	return entries[i:]
}
