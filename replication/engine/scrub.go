package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/apply"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/store"
)

// Scrub is how far a round of verifying everything has got, and what was found.
type Scrub struct {
	Began   time.Time `json:"began"`
	Ended   time.Time `json:"ended"` // zero: it is under way, or was interrupted
	Done    int64     `json:"done"`  // bytes read in this round
	Total   int64     `json:"total"` // bytes to read in it, about
	Found   []Found   `json:"found,omitempty"`
	Next    string    `json:"next,omitempty"` // pack from which an interrupted round goes on
	Packs   int       `json:"packs"`          // verified in this round
	Live    bool      `json:"live"`           // the live trees were verified in this round
	WasLive time.Time `json:"was_live"`       // when they were last
	Again   bool      `json:"again"`          // something was lacking then that they had to be compared with
}

// Found is damage that a scrub, or whoever read it, has found.
type Found struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`            // is damaged
	Repair string    `json:"repair"`          // what was done about it
	Mended bool      `json:"mended"`          // and it is as it was
	Waits  bool      `json:"waits,omitempty"` // for another node to send what is lost
}

// ScrubOptions of one round. All fields are required.
type ScrubOptions struct {
	Fresh bool // a round from its beginning; else an interrupted one is gone on with
	Live  bool // none is there to go on with: no packs, but the live trees once more
	// Roots are the live trees by volume.
	Roots func(ctx context.Context) (map[string]string, error)
	Pace  store.Pace
	// Foreign is told that somebody has written to a standby's live trees, so that it
	// can be kept before the generation's content replaces it.
	Foreign func(ctx context.Context, what []string)
	Found   func(Found) // is told of each, as it is found
}

const (
	livePiece  = 4 << 20 // bytes of the live trees that are looked at at once: an apply waits meanwhile
	scrubSaved = 10 * time.Second
	maxFound   = 100 // kept in the record
	afterPacks = "~" // in Next: all packs are done
)

func (e *Engine) scrubPath() string {
	return filepath.Join(filepath.Dir(e.applier.IndexPath()), "scrub.json")
}

// LastScrub is the round under way or the last one; zero: there was none.
func (e *Engine) LastScrub() Scrub {
	var s Scrub
	if b, err := os.ReadFile(e.scrubPath()); err == nil {
		_ = json.Unmarshal(b, &s) // of a damaged record nothing hangs but what is shown
	}
	if waits := func(f Found) bool { return f.Waits }; slices.ContainsFunc(s.Found, waits) && e.Lacks() == 0 {
		for i := range s.Found {
			if f := &s.Found[i]; f.Waits {
				f.Waits, f.Mended, f.Repair = false, true, f.Repair+"; it is here again"
			}
		}
	}
	return s
}

// round is a scrub under way.
type round struct {
	e     *Engine
	o     ScrubOptions
	s     Scrub
	saved time.Time
}

// Scrub reads everything that is kept, and the live trees where they are at a
// generation, from the disk, and verifies it: manifests, packs, live files. What is
// damaged is set aside and mended from what else is here: memory, the rest of the
// pack, the live trees, the store. What is not is listed as lacking, for another node to
// send. One at a time.
func (e *Engine) Scrub(ctx context.Context, o ScrubOptions) (Scrub, error) {
	e.scrubbing.Lock()
	defer e.scrubbing.Unlock()
	r := &round{e: e, o: o, s: e.LastScrub()}
	if o.Fresh || r.s.Began.IsZero() || !r.s.Ended.IsZero() {
		was := r.s
		r.s = Scrub{Began: time.Now(), Found: was.Found, WasLive: was.WasLive}
		if o.Live && !o.Fresh {
			r.s.Next, r.s.Packs, r.s.Done = afterPacks, was.Packs, was.Done
		}
	}
	err := r.all(ctx)
	if err == nil {
		r.s.Ended, r.s.Next = time.Now(), ""
	}
	return r.s, errors.Join(err, r.save(true))
}

func (r *round) save(now bool) error {
	if !now && time.Since(r.saved) < scrubSaved {
		return nil
	}
	r.saved = time.Now()
	b, err := json.Marshal(r.s)
	if err != nil {
		return err
	}
	return durable.WriteFile(r.e.scrubPath(), b, 0o600, nil)
}

func (r *round) pace(n int) error {
	r.s.Done += int64(n)
	return errors.Join(r.save(false), r.o.Pace(n))
}

func (r *round) found(f Found) {
	f.At = time.Now()
	r.s.Found = append(r.s.Found, f)
	if n := len(r.s.Found); n > maxFound {
		r.s.Found = slices.Delete(r.s.Found, 0, n-maxFound)
	}
	r.o.Found(f)
}

func (r *round) all(ctx context.Context) error {
	if err := r.measure(); err != nil {
		return err
	}
	if err := r.manifests(); err != nil {
		return err
	}
	if err := r.packs(ctx); err != nil {
		return err
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	return r.live(ctx)
}

// measure says how much there is to read.
func (r *round) measure() error {
	_, sizes, err := r.e.store.Packs()
	if err != nil {
		return err
	}
	r.s.Total = 0
	for _, n := range sizes {
		r.s.Total += n
	}
	m, err := r.e.HeadManifest()
	if err != nil || m == nil || r.e.Applied().IsZero() {
		return nil //nolint:nilerr // a head that cannot be read is found below
	}
	for i := range m.Volumes {
		for en := range m.Volumes[i].Entries.All() {
			r.s.Total += en.Size
		}
	}
	return nil
}

func (r *round) manifests() error {
	damaged, err := r.e.store.CheckManifests(r.pace)
	if err != nil {
		return err
	}
	for _, name := range damaged {
		text, ok := strings.CutPrefix(name, "generations/")
		id, perr := replication.ParseID(strings.TrimSuffix(text, ".manifest"))
		if !ok || perr != nil {
			r.found(Found{What: "the archived generation " + name + " cannot be read", Repair: "no other node has it: move the file away, then what only it needs can go"})
			continue
		}
		mended, err := r.e.store.SetAsideManifest(id)
		if err != nil {
			return err
		}
		f := Found{What: "the manifest of generation " + id.String() + " was damaged", Repair: "set aside; the other nodes are asked for the generation", Waits: true}
		if mended {
			f.Repair, f.Mended, f.Waits = "written anew from memory", true, false
		}
		r.found(f)
	}
	return nil
}

func (r *round) packs(ctx context.Context) error {
	names, _, err := r.e.store.Packs()
	if err != nil {
		return err
	}
	for _, h := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if h.String() < r.s.Next {
			continue
		}
		r.s.Next = h.String()
		if err := r.pace(0); err != nil {
			return err
		}
		err := r.e.store.CheckPack(h, r.pace)
		var damaged *store.DamagedPack
		if errors.As(err, &damaged) {
			f, serr := r.e.setAside(damaged)
			if serr != nil {
				return serr
			}
			r.found(f)
		} else if err != nil {
			return err
		}
		r.s.Packs++
	}
	return nil
}

// setAside takes a damaged pack out of use and says what is left to do.
func (e *Engine) setAside(d *store.DamagedPack) (Found, error) {
	to, saved, lost, err := e.store.SetAside(d.Pack)
	if err != nil {
		return Found{}, err
	}
	f := Found{What: fmt.Sprintf("pack %.12s was damaged (%v)", d.Pack, d.Err)}
	switch {
	case to == "":
		f.Repair, f.Mended = "it is gone: what is needed of it is in other packs", true
	case lost == 0:
		f.Repair, f.Mended = fmt.Sprintf("set aside as %s; all its %d chunks were saved", to, saved), true
	case lost < 0:
		f.Repair, f.Waits = fmt.Sprintf("set aside as %s; none of its content can be found in it", to), true
	default:
		f.Repair, f.Waits = fmt.Sprintf("set aside as %s; of its chunks %d were saved and %d lost", to, saved, lost), true
	}
	return f, nil
}

// Damaged is for an error that came up beside a scrub: where it is about a damaged
// pack, that is set aside and what was lost is looked for. False: it is about something
// else, or a scrub is under way, which will find it.
func (e *Engine) Damaged(ctx context.Context, err error) (Found, bool) {
	var damaged *store.DamagedPack
	if !errors.As(err, &damaged) || !e.scrubbing.TryLock() {
		return Found{}, false
	}
	defer e.scrubbing.Unlock()
	// Or it is the way to the peer that damages.
	if cerr := e.store.CheckPack(damaged.Pack, func(int) error { return ctx.Err() }); cerr == nil || !errors.As(cerr, &damaged) {
		return Found{}, false
	}
	e.mu.Lock()
	roots := e.roots
	e.mu.Unlock()
	f, serr := e.setAside(damaged)
	if serr != nil {
		e.log.Error("a damaged pack cannot be set aside", "pack", damaged.Pack, "error", serr)
		return Found{}, false
	}
	r := &round{e: e, s: e.LastScrub(), o: ScrubOptions{
		Found: func(Found) {},
		Roots: func(context.Context) (map[string]string, error) { return roots, nil },
	}}
	r.found(f)
	if serr := errors.Join(r.settle(ctx), r.save(true)); serr != nil {
		e.log.Error("what a damaged pack held cannot be looked for", "error", serr)
	}
	e.log.Error("the store is damaged", "what", f.What, "repair", f.Repair)
	return f, true
}

func (e *Engine) noteRoots(roots map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.roots = roots
}

// settle works out what is lost, and takes from the live trees what is there of it.
func (r *round) settle(ctx context.Context) error {
	l, err := r.e.store.FindLacks()
	if err != nil || len(l.Chunks) == 0 {
		return err
	}
	n, err := r.e.harvest(ctx, l, r.o.Roots)
	if err != nil {
		return err
	}
	if n > 0 {
		if l, err = r.e.store.FindLacks(); err != nil {
			return err
		}
		r.found(Found{What: fmt.Sprintf("%d lost chunks were in the live data", n), Repair: "taken from there", Mended: l.None()})
	}
	return nil
}

// live verifies the live trees, where they are at a generation.
func (r *round) live(ctx context.Context) error {
	roots, err := r.o.Roots(ctx)
	if err != nil {
		return err
	}
	var c apply.Check
	var foreign []string
	for {
		read, found, done, err := r.e.applier.CheckSome(ctx, &c, roots, livePiece)
		if errors.Is(err, apply.ErrUnsettled) {
			return nil // containers write to them: this is the active node
		}
		if errors.Is(err, replication.ErrNotFound) && r.e.Lacks() > 0 {
			r.s.Again = true // the generation that they are to be compared with is among what was lost
			return nil
		}
		if err != nil {
			return err
		}
		for _, f := range found {
			switch {
			case f.Foreign:
				foreign = append(foreign, f.String())
			case f.Repaired:
				r.found(Found{What: "the live data was damaged: " + f.String(), Repair: "written anew from the store", Mended: true})
			default:
				r.found(Found{What: "the live data was damaged: " + f.String(), Repair: fmt.Sprintf("not yet: %v", f.Err)})
			}
		}
		if done {
			break
		}
		if err := r.pace(int(read)); err != nil {
			return err
		}
	}
	r.s.Live, r.s.WasLive, r.s.Again = true, time.Now(), r.e.Lacks() > 0
	if len(foreign) > 0 {
		r.found(Found{What: fmt.Sprintf("somebody has written to this standby's live data: %s", strings.Join(foreign[:min(len(foreign), 5)], "; ")), Repair: "it is archived as a diverged generation, then replaced", Mended: true})
		r.o.Foreign(ctx, foreign)
	}
	return nil
}

// Lacks counts what is lost here and not yet sent again.
func (e *Engine) Lacks() int {
	l, err := e.store.Lacks()
	if err != nil {
		e.log.Warn("what the store has lost cannot be read", "error", err)
	}
	return len(l.Chunks) + len(l.Generations)
}

// Suspects lists what was received and looks like an attack on the data, and no person
// has released.
func (e *Engine) Suspects() []store.Suspect {
	list, err := e.store.Suspects()
	if err != nil {
		e.log.Error("what is suspect cannot be read", "error", err)
	}
	return list
}

// TidyLacks forgets what was lost and is here again, and goes on where a kill came before
// it was known what is lost. It may read all manifests.
func (e *Engine) TidyLacks() error {
	e.scrubbing.Lock()
	defer e.scrubbing.Unlock()
	return e.store.TidyLacks()
}

// GiveUp ends the wait for what no node has any more.
func (e *Engine) GiveUp() ([]replication.ID, error) { return e.store.GiveUp() }
