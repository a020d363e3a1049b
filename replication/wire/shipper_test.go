package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// chain seals generations 1.1 … 1.n, each with one file more.
func chain(t testing.TB, s *store.Store, n int) {
	t.Helper()
	var data [][]byte
	for i := range n {
		data = append(data, noise(uint64(100+i), 2000))
		seal(t, s, id(1, uint64(i+1)), parentOf(1, uint64(i+1)), data...)
	}
}

func parentOf(term, seq uint64) replication.ID {
	if seq == 1 {
		return replication.ID{}
	}
	return id(term, seq-1)
}

func TestShip(t *testing.T) {
	for _, at := range []int{askAtOnce, 1, 2} {
		t.Run(fmt.Sprint(at, " chunks at once"), func(t *testing.T) {
			defer func(was int) { askAtOnce = was }(askAtOnce)
			askAtOnce = at
			testShip(t)
		})
	}
}

func testShip(t *testing.T) {
	src := openStore(t, t.TempDir())
	r := pipeReceiver(t)
	c := r.dial(t)
	sh := NewShipper(ShipperOptions{Source: src, MaxChain: 4})
	ship := func(generations, packs int, squashed bool) {
		t.Helper()
		got, err := sh.Ship(t.Context(), c)
		ok(t, err)
		if got.Generations != generations || got.Packs != packs || got.Squashed != squashed {
			t.Errorf("got %+v; want %d generations, %d packs, squashed %v", got, generations, packs, squashed)
		}
		head, err := src.Head()
		ok(t, err)
		if theirs, _ := r.s.Head(); theirs != head || got.Peer.Head != head {
			t.Errorf("the peer is at %s, reported as %s; we are at %s", theirs, got.Peer.Head, head)
		}
	}
	ship(0, 0, false) // nothing anywhere
	chain(t, src, 2)
	ship(1, 2, false) // the first sync takes the newest only
	ship(0, 0, false)
	d := [][]byte{noise(100, 2000), noise(101, 2000), noise(500, 3_000_000)}
	seal(t, src, id(1, 3), id(1, 2), d...)
	seal(t, src, id(1, 4), id(1, 3), d[:2]...)
	ship(2, 3, false) // each in order; 3 MB are three packs
	for i := range uint64(10) {
		seal(t, src, id(2, i+1), map[bool]replication.ID{true: id(1, 4), false: id(2, i)}[i == 0], noise(200+i, 2000))
	}
	ship(1, 1, true)
	seal(t, src, id(2, 11), id(2, 10), noise(209, 2000), noise(300, 2000))
	ship(1, 1, false) // after a squash it goes on as always
	m, err := r.s.Load(id(2, 11))
	ok(t, err)
	for _, h := range treetest.Chunks(m) {
		if _, err := r.s.Get(h); err != nil {
			t.Error(err)
		}
	}
}

func TestShipRefused(t *testing.T) {
	src := openStore(t, t.TempDir())
	chain(t, src, 3)
	sh := NewShipper(ShipperOptions{Source: src})

	fenced := pipeReceiver(t)
	ok(t, fenced.s.Fence(2))
	_, err := sh.Ship(t.Context(), fenced.dial(t))
	wantErr(t, err, replication.ErrStaleTerm)

	ahead := pipeReceiver(t)
	seal(t, ahead.s, id(1, 7), id(0, 0), noise(1, 10))
	_, err = sh.Ship(t.Context(), ahead.dial(t))
	wantErr(t, err, replication.ErrWrongParent)

	other := pipeReceiver(t)
	seal(t, other.s, id(1, 2), id(0, 0), noise(1, 10))
	seal(t, src, id(2, 1), id(1, 3), noise(2, 10))
	seal(t, other.s, id(1, 9), id(1, 2), noise(1, 10))
	before := other.committed(t)
	_, err = sh.Ship(t.Context(), other.dial(t))
	wantErr(t, err, replication.ErrWrongParent)
	other.unchanged(t, before)
}

func TestShipPruned(t *testing.T) {
	src := openStore(t, t.TempDir())
	r := pipeReceiver(t)
	sh := NewShipper(ShipperOptions{Source: src})
	chain(t, src, 2)
	_, err := sh.Ship(t.Context(), r.dial(t))
	ok(t, err)
	seal(t, src, id(1, 3), id(1, 2), noise(3, 10))
	seal(t, src, id(1, 4), id(1, 3), noise(4, 10))
	seal(t, src, id(2, 1), id(1, 4), noise(5, 10))
	_, err = src.Prune(store.Policy{KeepLast: 2})
	ok(t, err)
	got, err := sh.Ship(t.Context(), r.dial(t)) // 1.2 comes before 1.3 in one term: an ancestor
	ok(t, err)
	if !got.Squashed || got.Generations != 1 {
		t.Errorf("got %+v", got)
	}

	seal(t, src, id(3, 1), id(2, 1), noise(6, 10))
	seal(t, src, id(3, 2), id(3, 1), noise(7, 10))
	seal(t, src, id(3, 3), id(3, 2), noise(8, 10))
	_, err = src.Prune(store.Policy{KeepLast: 2})
	ok(t, err)
	other := pipeReceiver(t) // was active in term 2 for longer than anybody has heard of
	seal(t, other.s, id(2, 2), id(0, 0), noise(9, 10))
	_, err = sh.Ship(t.Context(), other.dial(t))
	wantErr(t, err, replication.ErrWrongParent)
	if !strings.Contains(err.Error(), "goes to 2.1") {
		t.Error(err)
	}
	got, err = sh.Ship(t.Context(), r.dial(t)) // 2.1 is not kept any more, but it is known that our line went through it
	ok(t, err)
	if !got.Squashed || got.Generations != 1 || got.Peer.Head != id(3, 3) {
		t.Errorf("got %+v", got)
	}
}

// TestPeerWasAwayForLong: a former active comes back when nothing of its term is kept any more. What
// it has that the new term began from is gone on with; where it has more, it is told so.
func TestPeerWasAwayForLong(t *testing.T) {
	for had, want := range map[uint64]error{3: nil, 4: nil, 5: replication.ErrWrongParent} {
		t.Run(fmt.Sprint("1.", had), func(t *testing.T) {
			src, r := openStore(t, t.TempDir()), pipeReceiver(t)
			chain(t, src, 4)
			chain(t, r.s, int(had))
			for i := range uint64(30) {
				seal(t, src, id(2, i+1), map[bool]replication.ID{true: id(1, 4), false: id(2, i)}[i == 0], noise(200+i, 20))
			}
			_, err := src.Prune(store.Policy{KeepLast: 2})
			ok(t, err)
			if _, err := src.Load(id(1, 4)); !errors.Is(err, replication.ErrNotFound) {
				t.Fatalf("1.4 is still kept: %v", err)
			}
			before := r.committed(t)
			got, err := NewShipper(ShipperOptions{Source: src}).Ship(t.Context(), r.dial(t))
			if !errors.Is(err, want) {
				t.Fatalf("%+v, %v", got, err)
			}
			if want != nil {
				r.unchanged(t, before)
			} else if head, err := r.s.Head(); err != nil || head != id(2, 30) {
				t.Errorf("the peer is at %s, %v", head, err)
			}
		})
	}
}

// TestShipToAPeerFarBehind: of all that lies between, nothing is kept, but what the
// peer has is in our history too.
func TestShipToAPeerFarBehind(t *testing.T) {
	src := openStore(t, t.TempDir())
	r := pipeReceiver(t)
	sh := NewShipper(ShipperOptions{Source: src})
	chain(t, src, 2)
	_, err := sh.Ship(t.Context(), r.dial(t))
	ok(t, err)
	parent := id(1, 2)
	for term := uint64(2); term <= 5; term++ {
		seal(t, src, id(term, 1), parent, noise(term+2, 10))
		parent = id(term, 1)
	}
	ok(t, src.Pin(id(1, 2), "the peer has it"))
	_, err = src.Prune(store.Policy{KeepLast: 2})
	ok(t, err)
	got, err := sh.Ship(t.Context(), r.dial(t))
	ok(t, err)
	if !got.Squashed || got.Peer.Head != id(5, 1) {
		t.Errorf("got %+v", got)
	}
}

// TestShipToAPeerThatLostAPack: what the peer should have by its head is offered
// again when the commit says that it is not there.
func TestShipToAPeerThatLostAPack(t *testing.T) {
	src := openStore(t, t.TempDir())
	r := pipeReceiver(t)
	sh := NewShipper(ShipperOptions{Source: src})
	chain(t, src, 1)
	_, err := sh.Ship(t.Context(), r.dial(t))
	ok(t, err)
	packs, err := filepath.Glob(filepath.Join(r.s.Dir(), "packs", "*.pack"))
	ok(t, err)
	for _, p := range packs {
		ok(t, os.Remove(p))
	}
	chain2 := [][]byte{noise(100, 2000), noise(101, 2000)}
	seal(t, src, id(1, 2), id(1, 1), chain2...)
	got, err := sh.Ship(t.Context(), r.dial(t))
	ok(t, err)
	if got.Packs != 2 || got.Peer.Head != id(1, 2) {
		t.Errorf("got %+v", got)
	}
}

// repacking is a peer to which nothing is sent before the packs were written anew.
type repacking struct {
	*Client
	t    testing.TB
	src  *store.Store
	once sync.Once
}

func (r *repacking) PutPack(ctx context.Context, service string, p File, progress func(int64)) error {
	r.once.Do(func() {
		out, err := r.src.Repack(ctx, func(int) error { return nil }, func(f func() error) error { return f() })
		if err != nil || out.Packs != 6 {
			r.t.Errorf("%+v, %v", out, err)
		}
	})
	return r.Client.PutPack(ctx, service, p, progress)
}

// TestShipWhilePacksAreWrittenAnew: what is gone before it was sent is asked for again.
func TestShipWhilePacksAreWrittenAnew(t *testing.T) {
	src, err := store.Open(t.TempDir(), svc, store.Options{PackSize: 1 << 20, PackGrace: time.Nanosecond, ManySmall: 4})
	ok(t, err)
	t.Cleanup(func() { _ = src.Close() })
	r := pipeReceiver(t)
	var data [][]byte
	for i := range uint64(6) {
		d := noise(i, 2000)
		data = append(data, d)
		w := src.NewPack()
		ok(t, w.Put(hashOf(d), d, nil, 0))
		_, err := w.Seal()
		ok(t, err)
	}
	ok(t, src.Commit(manifest(id(1, 1), replication.ID{}, data...)))
	got, err := NewShipper(ShipperOptions{Source: src}).Ship(t.Context(), &repacking{Client: r.dial(t), t: t, src: src})
	ok(t, err)
	if got.Packs != 1 || got.Peer.Head != id(1, 1) {
		t.Errorf("got %+v", got)
	}
}
