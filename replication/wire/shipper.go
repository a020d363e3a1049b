package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// Source is the store that a Shipper ships from; *store.Store is one.
type Source interface {
	Service() string
	State() (replication.State, error)
	Load(id replication.ID) (*replication.Manifest, error)
	// Ends are the last generations, by their sequence, of earlier terms in our history.
	Ends() (map[uint64]uint64, error)
	// Missing returns those of hs that the store has not got.
	Missing(hs []replication.Hash) ([]replication.Hash, error)
	// PacksFor lists packs that hold the chunks; cleanup is never nil.
	PacksFor(missing []replication.Hash) (packs []store.PackFile, cleanup func(), err error)
}

// Peer is the store that a Shipper brings up to date; *Client is one. What a
// method did is durable on the peer when it returns nil.
type Peer interface {
	State(ctx context.Context, service string) (replication.State, error)
	Missing(ctx context.Context, service string, hs []replication.Hash) ([]replication.Hash, error)
	PutPack(ctx context.Context, service string, p File, progress func(int64)) error
	Commit(ctx context.Context, service string, id replication.ID, encoded []byte) error
}

// ShipperOptions of a [Shipper]. Source is required.
type ShipperOptions struct {
	Source Source
	Logger *slog.Logger // nil: discards
	// MaxChain is how many generations the peer may be behind to get each of them;
	// further behind it gets the newest only, squashed. 0: 16.
	MaxChain int
	// Parallel is how many packs are on their way at a time: while the peer verifies
	// one and makes it durable, others travel. 0: 4.
	Parallel int
	// Progress is told, from several goroutines, how many bytes of the packs of
	// a generation have been handed over. nil: nobody is told.
	Progress func(id replication.ID, sent, total int64)
	// Mend says that what the peer has lost is sent first. It costs what was lost, and
	// where it cannot be mended, in vain each time: not for every cycle.
	Mend bool
}

// Shipper brings one peer's store of one service up to our head. It keeps
// nothing between calls: what the peer says is the truth, so a shipment that was
// cut anywhere is gone on with by the next call. For one goroutine.
type Shipper struct{ o ShipperOptions }

// NewShipper makes a Shipper.
func NewShipper(o ShipperOptions) *Shipper {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxChain == 0 {
		o.MaxChain = 16
	}
	if o.Parallel == 0 {
		o.Parallel = 4
	}
	if o.Progress == nil {
		o.Progress = func(replication.ID, int64, int64) {}
	}
	return &Shipper{o: o}
}

// Report says what a shipment did.
type Report struct {
	Peer        replication.State // as the peer said at the begin; Head is where it stands now
	From        replication.ID    // the peer's head before
	Generations int               // committed on the peer
	Squashed    bool              // the peer was too far behind for each of them
	Packs       int
	Mended      int   // packs and manifests of what the peer had lost
	Bytes       int64 // of packs and manifests
	Took        time.Duration
}

// Ship sends what the peer lacks up to our head, each generation in order. It
// returns at once where there is nothing to send, and after the first failure;
// the Report says how far it got. Whether and when to try again is the caller's.
//
// A peer whose history is not the beginning of ours is ErrWrongParent, one that
// knows a higher term than we do ErrStaleTerm: neither gets better by itself.
func (s *Shipper) Ship(ctx context.Context, p Peer) (r Report, err error) {
	begun := time.Now()
	defer func() { r.Took = time.Since(begun) }()
	ours, err := s.o.Source.State()
	if err != nil {
		return r, err
	}
	if r.Peer, err = p.State(ctx, ours.Service); err != nil {
		return r, err
	}
	r.From = r.Peer.Head
	if s.o.Mend {
		if r.Mended, err = s.mend(ctx, p, r.Peer.Lacks); err != nil {
			s.o.Logger.Warn("the peer has lost some of its history, and it cannot be mended", "service", ours.Service, "error", err)
		}
	}
	steps, err := s.plan(ours, r.Peer)
	if err != nil {
		return r, err
	}
	for _, st := range steps {
		if err := s.step(ctx, p, st, &r); err != nil {
			return r, fmt.Errorf("ship generation %s: %w", st.m.ID, err)
		}
		r.Generations++
		r.Squashed = r.Squashed || st.squashed
		r.Peer.Head, r.Peer.Term = st.m.ID, max(r.Peer.Term, st.m.ID.Term)
	}
	return r, nil
}

// step is one generation to ship: onto base, which the peer has (nil: it has
// none, or we have it no more).
type step struct {
	m        *replication.Manifest
	base     *replication.Manifest
	squashed bool
}

// plan finds the generations between the peer's head and ours, oldest first.
func (s *Shipper) plan(ours, peer replication.State) ([]step, error) {
	if ours.Head.IsZero() || peer.Head == ours.Head {
		return nil, s.sameTerm(ours, peer)
	}
	if err := s.sameTerm(ours, peer); err != nil {
		return nil, err
	}
	m, err := s.o.Source.Load(ours.Head)
	if err != nil {
		return nil, err
	}
	if peer.Head.IsZero() {
		return []step{{m: m}}, nil // a store without a history takes any generation
	}
	newest := m
	var steps []step
	for m.Parent != peer.Head {
		if m.Parent.Compare(peer.Head) < 0 {
			return nil, fmt.Errorf("%w: the peer's generation %s is not in our history: ours goes from %s to %s",
				replication.ErrWrongParent, peer.Head, m.Parent, m.ID)
		}
		parent, err := s.o.Source.Load(m.Parent)
		if errors.Is(err, replication.ErrNotFound) {
			return s.squashPruned(newest, m.Parent, peer)
		}
		if err != nil {
			return nil, err
		}
		steps = append(steps, step{m: m, base: parent})
		m = parent
	}
	if len(steps) >= s.o.MaxChain || m.ID.Term < peer.Term {
		// The latter: the peer, or a third node, was promoted in between and has left nothing.
		// It refuses what is of an older term, which only the newest carries on.
		return s.squash(newest, peer), nil
	}
	base, err := s.o.Source.Load(peer.Head)
	if err != nil && !errors.Is(err, replication.ErrNotFound) {
		return nil, err
	}
	if base != nil && base.Sum().String() != peer.HeadSum {
		s.o.Logger.Error("the peer's head has other content than ours of that name; the next generation goes whole", "service", ours.Service, "generation", peer.Head.String())
		base = nil
	}
	steps = append(steps, step{m: m, base: base})
	slices.Reverse(steps)
	return steps, nil
}

// sameTerm fails early where every commit would be refused.
func (s *Shipper) sameTerm(ours, peer replication.State) error {
	if !ours.Head.IsZero() && peer.Head != ours.Head && peer.Term > ours.Head.Term {
		return fmt.Errorf("%w: the peer knows term %d, our newest generation is %s", replication.ErrStaleTerm, peer.Term, ours.Head)
	}
	return nil
}

// squashPruned is for a chain with generations missing that are not kept any more.
// What we have committed is one line, so what we have of the peer's head is an
// ancestor. Of what we have not: within one term there is one writer and one line,
// so a lower sequence of the term in which our chain breaks off is an ancestor, too.
// Of an earlier term the store remembers with which generation it ended in our line:
// what is not later is an ancestor. Of terms that it does not know that cannot be told.
func (s *Shipper) squashPruned(newest *replication.Manifest, lost replication.ID, peer replication.State) ([]step, error) {
	if m, err := s.o.Source.Load(peer.Head); err == nil && m.Sum().String() == peer.HeadSum {
		return s.squash(newest, peer), nil
	}
	if lost.Term == peer.Head.Term && peer.Head.Seq < lost.Seq {
		return s.squash(newest, peer), nil
	}
	ends, err := s.o.Source.Ends()
	if err != nil {
		return nil, err
	}
	end, known := ends[peer.Head.Term]
	if known && peer.Head.Seq <= end {
		return s.squash(newest, peer), nil
	}
	if known {
		return nil, fmt.Errorf("%w: the peer's generation %s is not in our history: of its term, that goes to %s",
			replication.ErrWrongParent, peer.Head, replication.ID{Term: peer.Head.Term, Seq: end})
	}
	return nil, fmt.Errorf("%w: the peer is at %s and we keep nothing before %s, so its history cannot be compared with ours",
		replication.ErrWrongParent, peer.Head, lost)
}

// squash puts the newest generation directly on top of the peer's head. A
// manifest is a full state, so nothing is lost but the generations in between.
// The generation keeps its ID; its manifest differs from ours in the parent, and
// so in its sum.
func (s *Shipper) squash(newest *replication.Manifest, peer replication.State) []step {
	m := *newest
	m.Parent = peer.Head
	base, err := s.o.Source.Load(peer.Head)
	if err != nil || base.Sum().String() != peer.HeadSum {
		base = nil // then it goes whole
	}
	return []step{{m: &m, base: base, squashed: true}}
}

// mostAnew is how often packs that are gone are asked for again: all of a store's may be written anew while they travel.
const mostAnew = 20

// step sends one generation's chunks, then commits it: as a delta where the peer
// has its base and so do we.
func (s *Shipper) step(ctx context.Context, p Peer, st step, r *Report) error {
	service := s.o.Source.Service()
	m := *st.m
	m.Delta = nil
	if st.base != nil {
		m.Delta = st.m.DeltaFrom(st.base)
	}
	offer := store.Added(&m)
	for again, anew := false, 0; ; {
		err := s.chunks(ctx, p, m.ID, offer, r)
		if anew < mostAnew && errors.Is(err, fs.ErrNotExist) {
			anew++
			continue // a pack of ours was written anew with others since it was looked up; or the peer lacks a file
		}
		if err != nil {
			return err
		}
		encoded, err := store.EncodeManifest(&m) // now: of many files it is large, as is what they are asked with
		if err != nil {
			return err
		}
		err = p.Commit(ctx, service, m.ID, encoded)
		if !again && errors.Is(err, replication.ErrMissingChunks) {
			// It has lost what its own head needs, say a damaged pack: offer all.
			s.o.Logger.Warn("the peer lacks chunks it should have; offering it all", "service", service, "generation", m.ID.String(), "error", err)
			whole := m
			whole.Delta = nil
			offer, again = store.Added(&whole), true
			continue
		}
		if err == nil {
			r.Bytes += int64(len(encoded))
		}
		return err
	}
}

// askAtOnce is how many chunks the peer is asked for at once: a question takes some 250 bytes of memory for each.
var askAtOnce = 1 << 14 // only tests change it

// chunks sends those of offer that the peer lacks. There may be as many as a volume has files.
func (s *Shipper) chunks(ctx context.Context, p Peer, id replication.ID, offer iter.Seq[replication.Hash], r *Report) error {
	service := s.o.Source.Service()
	var missing []replication.Hash
	batch, seen := make([]replication.Hash, 0, 64), map[replication.Hash]struct{}{}
	ask := func() error {
		some, err := p.Missing(ctx, service, batch)
		missing, batch = append(missing, some...), batch[:0]
		clear(seen)
		return err
	}
	for h := range offer {
		if _, dup := seen[h]; dup {
			continue
		}
		seen[h] = struct{}{}
		if batch = append(batch, h); len(batch) == askAtOnce {
			if err := ask(); err != nil {
				return err
			}
		}
	}
	if len(batch) > 0 {
		if err := ask(); err != nil {
			return err
		}
	}
	if len(missing) == 0 {
		return nil
	}
	packs, cleanup, err := s.o.Source.PacksFor(missing)
	defer cleanup()
	if err != nil {
		return err
	}
	return s.put(ctx, p, id, packs, r)
}
