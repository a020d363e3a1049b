package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/replication"
)

// find gives a generation by the name that people know it under: committed
// ("term.sequence") or archived ("term.sequence.n"). ErrNotFound.
func (e *Engine) find(name string) (*replication.Manifest, error) {
	if strings.Count(name, ".") == 2 {
		return e.store.LoadDiverged(name)
	}
	id, err := replication.ParseID(name)
	if err != nil {
		return nil, err
	}
	return e.store.Load(id)
}

// CheckRestore makes sure that the head's volumes can be brought to the named
// generation: all that differs is read and verified. Nothing is changed; nothing of
// the service needs to stand still.
func (e *Engine) CheckRestore(ctx context.Context, name string) error {
	m, err := e.find(name)
	if err != nil {
		return err
	}
	head, err := e.HeadManifest()
	if err != nil {
		return err
	}
	if head == nil {
		return fmt.Errorf("%w: nothing is committed yet", replication.ErrNotFound)
	}
	read := map[replication.Hash]struct{}{}
	for _, d := range m.DeltaFrom(head).Volumes {
		for _, en := range d.Put {
			for _, c := range en.Chunks {
				if _, ok := read[c.Hash]; ok {
					continue
				}
				read[c.Hash] = struct{}{}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if _, err := e.store.Get(c.Hash); err != nil {
					return fmt.Errorf("generation %s, volume %s, %q: %w", name, d.Name, en.Path, err)
				}
			}
		}
	}
	return nil
}

// Keep pins a committed generation; an archived one stays anyway.
func (e *Engine) Keep(name, why string) error {
	if strings.Count(name, ".") == 2 {
		_, err := e.store.LoadDiverged(name)
		return err
	}
	id, err := replication.ParseID(name)
	if err != nil {
		return err
	}
	return e.store.Pin(id, why)
}

// Revert commits the content of the named generation as the next one of the
// request's term, on top of the head. The head's volumes are what they are: one that
// the named generation does not have stays as it is, one that only it has is left
// out; both are said. Live trees are not touched: Apply brings them there. Where the
// head has that content already, it is the answer: so after a kill it can be done again.
func (e *Engine) Revert(name string, r replication.SealRequest) (id replication.ID, notes []string, err error) {
	e.lockWork()
	defer e.work.Unlock()
	from, err := e.find(name)
	if err != nil {
		return id, nil, err
	}
	head, err := e.HeadManifest()
	if err != nil {
		return id, nil, err
	}
	if head == nil {
		return id, nil, fmt.Errorf("%w: nothing is committed yet", replication.ErrNotFound)
	}
	m := &replication.Manifest{
		Format: replication.FormatVersion, Service: e.store.Service(), ID: replication.ID{Term: r.Term, Seq: 1}, Parent: head.ID,
		CapturedAt: time.Now(), Loose: from.Loose, Definition: r.Definition, Images: r.Images,
	}
	if head.ID.Term == r.Term {
		m.ID.Seq = head.ID.Seq + 1
	}
	m.Volumes, notes = reverted(head, from)
	if m.Sum() == head.Sum() {
		return head.ID, notes, nil
	}
	m.Delta = m.DeltaFrom(head)
	if err := e.store.Commit(m); err != nil {
		return id, notes, fmt.Errorf("the content of generation %s as %s: %w", name, m.ID, err)
	}
	e.mu.Lock()
	e.head = m
	e.mu.Unlock()
	return m.ID, notes, nil
}

// reverted are head's volumes with from's content.
func reverted(head, from *replication.Manifest) (volumes []replication.Volume, notes []string) {
	volumes = slices.Clone(head.Volumes)
	for i := range volumes {
		old := from.Volume(volumes[i].Name)
		if old == nil {
			notes = append(notes, fmt.Sprintf("volume %s is not in generation %s and stays as it is", volumes[i].Name, from.ID))
			continue
		}
		volumes[i].Entries, volumes[i].Skipped = old.Entries.Clone(), old.Skipped
	}
	for i := range from.Volumes {
		if name := from.Volumes[i].Name; head.Volume(name) == nil {
			notes = append(notes, fmt.Sprintf("volume %s of generation %s is not one of the service's any more and is left out; understudy restore --to DIR writes it beside", name, from.ID))
		}
	}
	return volumes, notes
}

// ApplyAt brings the live trees to a committed generation that need not be the
// head; it finishes an interrupted apply on the way.
func (e *Engine) ApplyAt(ctx context.Context, id replication.ID, roots map[string]string) error {
	e.lockWork()
	defer e.work.Unlock()
	return e.applyLocked(ctx, id, roots)
}

// applyLocked is for whoever holds e.work.
func (e *Engine) applyLocked(ctx context.Context, id replication.ID, roots map[string]string) error {
	pending, err := e.applier.Pending()
	if err != nil {
		return err
	}
	e.noteRoots(roots)
	if pending == nil && e.Applied() == id {
		return nil
	}
	if err := e.capturer.Close(); err != nil { // what a promotion may have left that failed
		e.log.Warn("what was kept of large files was not given back", "error", err)
	}
	_, err = e.applier.Apply(ctx, id, roots)
	if err != nil {
		e.Damaged(ctx, err)
	}
	return err
}
