package wire

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// TestContract is what a sender can rely on, over a pipe and through the real sshd.
func TestContract(t *testing.T) {
	over := map[string]func(testing.TB) *receiver{
		"pipe": func(t testing.TB) *receiver { return pipeReceiver(t) },
		"sshd": func(t testing.TB) *receiver { return startSSHD(t).receiver },
	}
	cases := map[string]func(*testing.T, *receiver){
		"state":            testState,
		"missing":          testMissing,
		"pack":             testPack,
		"pack resumed":     testPackResumed,
		"pack from a lie":  testPackResumedWrongly,
		"commit":           testCommit,
		"refusals":         testRefusals,
		"image":            testImage,
		"unknown service":  testUnknownService,
		"context ends":     testContextEnds,
		"several at once":  testSeveralAtOnce,
		"close is the end": testClose,
	}
	for name, start := range over {
		t.Run(name, func(t *testing.T) {
			for name, f := range cases {
				t.Run(name, func(t *testing.T) { f(t, start(t)) })
			}
		})
	}
}

func testState(t *testing.T, r *receiver) {
	ok(t, r.s.Fence(7))
	ok(t, r.s.SetHave([]string{"sha256:aa"}, []string{"sha256:bb"}))
	got, err := r.dial(t).State(t.Context(), svc)
	ok(t, err)
	want, err := r.s.State()
	ok(t, err)
	if got.Term != 7 || !slices.Equal(got.Images, want.Images) || !slices.Equal(got.Layers, want.Layers) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func testMissing(t *testing.T, r *receiver) {
	have := noise(1, 1000)
	seal(t, r.s, id(1, 1), id(0, 0), have)
	// More than fit into one want, so that the client asks twice.
	hs := make([]replication.Hash, maxWant+10)
	for i := range hs {
		hs[i] = replication.Hash{byte(i), byte(i >> 8), byte(i >> 16), 1}
	}
	hs[5] = hashOf(have)
	c := r.dial(t)
	got, err := c.Missing(t.Context(), svc, hs)
	ok(t, err)
	if want := slices.Delete(slices.Clone(hs), 5, 6); !slices.Equal(got, want) {
		t.Errorf("%d missing, want %d in order", len(got), len(want))
	}
	if got, err := c.Missing(t.Context(), svc, []replication.Hash{hashOf(have)}); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v; nothing is missing", got, err)
	}
}

func testPack(t *testing.T, r *receiver) {
	data := noise(2, 900_000) // several packets
	p, _ := onePack(t, data)
	c := r.dial(t)
	var last atomic.Int64
	ok(t, c.PutPack(t.Context(), svc, p, func(n int64) { last.Store(n) }))
	if last.Load() != p.Size {
		t.Errorf("progress ended at %d of %d", last.Load(), p.Size)
	}
	if !r.s.Has(hashOf(data)) {
		t.Error("the chunk is not in the store")
	}
	ok(t, c.PutPack(t.Context(), svc, p, nil)) // again: a lost answer
}

// incoming writes what an earlier, cut transfer left.
func (r *receiver) incoming(t testing.TB, name string, b []byte) {
	t.Helper()
	ok(t, os.WriteFile(filepath.Join(r.s.IncomingDir(), name), b, 0o660))
}

func testPackResumed(t *testing.T, r *receiver) {
	data := noise(3, 900_000)
	p, b := onePack(t, data)
	for _, there := range []int{1, len(b) / 2, len(b)} {
		r.incoming(t, p.Hash.String()+suffixPack, b[:there])
		first := int64(-1)
		err := r.dial(t).PutPack(t.Context(), svc, p, func(n int64) {
			if first < 0 {
				first = n
			}
		})
		ok(t, err)
		if there < len(b) && first <= int64(there) || there == len(b) && first != -1 {
			t.Errorf("with %d of %d bytes there, the first progress was %d", there, len(b), first)
		}
		if !r.s.Has(hashOf(data)) {
			t.Error("the chunk is not in the store")
		}
	}
}

func testPackResumedWrongly(t *testing.T, r *receiver) {
	data := noise(4, 900_000)
	p, b := onePack(t, data)
	bad := slices.Clone(b[:len(b)/2])
	bad[100] ^= 1
	r.incoming(t, p.Hash.String()+suffixPack, bad)
	ok(t, r.dial(t).PutPack(t.Context(), svc, p, nil))
	if !r.s.Has(hashOf(data)) {
		t.Error("the chunk is not in the store")
	}
	r.incoming(t, p.Hash.String()+suffixPack, append(slices.Clone(b), 1, 2, 3)) // longer than it is
	ok(t, r.dial(t).PutPack(t.Context(), svc, p, nil))
}

func testCommit(t *testing.T, r *receiver) {
	data := noise(5, 5000)
	p, _ := onePack(t, data)
	b, err := store.EncodeManifest(manifest(id(1, 1), id(0, 0), data))
	ok(t, err)
	c := r.dial(t)
	wantErr(t, c.Commit(t.Context(), svc, id(1, 1), b), replication.ErrMissingChunks)
	ok(t, c.PutPack(t.Context(), svc, p, nil))
	ok(t, c.Commit(t.Context(), svc, id(1, 1), b))
	ok(t, c.Commit(t.Context(), svc, id(1, 1), b)) // a lost answer is asked again
	st, err := c.State(t.Context(), svc)
	ok(t, err)
	if st.Head != id(1, 1) || st.HeadSum != manifest(id(1, 1), id(0, 0), data).Sum().String() {
		t.Errorf("state is %+v", st)
	}
}

func testRefusals(t *testing.T, r *receiver) {
	data := noise(6, 5000)
	seal(t, r.s, id(3, 1), id(0, 0), data)
	before := r.committed(t)
	c := r.dial(t)
	commit := func(at, parent replication.ID, data ...[]byte) error {
		b, err := store.EncodeManifest(manifest(at, parent, data...))
		ok(t, err)
		return c.Commit(t.Context(), svc, at, b)
	}
	wantErr(t, commit(id(2, 9), id(2, 8), data), replication.ErrStaleTerm)
	wantErr(t, commit(id(3, 2), id(2, 7), data), replication.ErrWrongParent)
	wantErr(t, commit(id(3, 1), id(2, 7), data), replication.ErrWrongParent) // same name, other content
	wantErr(t, commit(id(3, 2), id(3, 1), []byte("nowhere")), replication.ErrMissingChunks)
	wantErr(t, c.Commit(t.Context(), svc, id(3, 2), []byte("not a manifest at all")), replication.ErrTruncated)

	escape := manifest(id(3, 2), id(3, 1), data)
	b, err := store.EncodeManifest(escape)
	ok(t, err)
	wantErr(t, c.Commit(t.Context(), svc, id(3, 3), b), replication.ErrFormat) // says 3.2
	b[len(b)/2] ^= 0x10
	wantErr(t, c.Commit(t.Context(), svc, id(3, 2), b), replication.ErrBadHash)

	p, pb := onePack(t, noise(7, 300_000))
	flipped := slices.Clone(pb)
	flipped[1000] ^= 4
	f := file(t, flipped)
	f.Hash = p.Hash
	wantErr(t, c.PutPack(t.Context(), svc, f, nil), replication.ErrBadHash)
	cut := file(t, pb[:len(pb)-10])
	cut.Hash = p.Hash
	if err := c.PutPack(t.Context(), svc, cut, nil); err == nil {
		t.Error("a truncated pack was taken")
	}
	r.unchanged(t, before)
	ok(t, c.PutPack(t.Context(), svc, p, nil)) // and the good one still goes through
}

func testImage(t *testing.T, r *receiver) {
	b := noise(8, 700_000)
	f, c := file(t, b), r.dial(t)
	ok(t, c.PutImage(t.Context(), svc, f, nil))
	ok(t, c.PutImage(t.Context(), svc, f, nil))
	got, err := os.ReadFile(filepath.Join(r.s.Dir(), "images", f.Hash.String()+".image"))
	ok(t, err)
	if !slices.Equal(got, b) {
		t.Error("the image is not what was sent")
	}
	bad := file(t, b)
	bad.Hash[0] ^= 1
	wantErr(t, c.PutImage(t.Context(), svc, bad, nil), replication.ErrBadHash)
}

func testUnknownService(t *testing.T, r *receiver) {
	c := r.dial(t)
	_, err := c.State(t.Context(), "nobody")
	wantErr(t, err, ErrNoService)
	_, err = c.State(t.Context(), "..")
	wantErr(t, err, ErrNotAllowed) // "/../state" is "/state"
	_, err = c.State(t.Context(), "-rf")
	wantErr(t, err, replication.ErrBadPath)
}

func testContextEnds(t *testing.T, r *receiver) {
	c := r.dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	p, _ := onePack(t, noise(9, 1_000_000))
	err := c.PutPack(ctx, svc, p, func(int64) { cancel() })
	wantErr(t, err, context.Canceled)
	wantErr(t, err, ErrDisconnected)
	<-c.Done()
	_, err = c.State(t.Context(), svc)
	wantErr(t, err, ErrDisconnected)
	ok(t, r.put(t, p)) // a new connection goes on
}

// put sends p on a new connection, until nobody else has it open: the server
// of a connection that was just cut may not have noticed yet.
func (r *receiver) put(t testing.TB, p File) error {
	t.Helper()
	for {
		err := r.dial(t).PutPack(t.Context(), svc, p, nil)
		if !isBusy(err) {
			return err
		}
	}
}

func testSeveralAtOnce(t *testing.T, r *receiver) {
	p, _ := onePack(t, noise(10, 1_000_000))
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		c := r.dial(t)
		wg.Go(func() { errs[i] = c.PutPack(context.Background(), svc, p, nil) })
	}
	wg.Wait()
	done := 0
	for _, err := range errs {
		if err == nil {
			done++
		} else if !isBusy(err) {
			// The one who was second may find the file gone under its new name.
			t.Logf("refused: %v", err)
		}
	}
	if done == 0 {
		t.Errorf("nobody got through: %v", errs)
	}
	fi, err := os.Stat(filepath.Join(r.s.Dir(), "packs", p.Hash.String()+suffixPack))
	ok(t, err)
	if fi.Size() != p.Size {
		t.Errorf("the pack has %d bytes, not %d", fi.Size(), p.Size)
	}
}

func testClose(t *testing.T, r *receiver) {
	c := r.dial(t)
	ok(t, c.Close())
	ok(t, c.Close())
	_, err := c.State(t.Context(), svc)
	wantErr(t, err, ErrDisconnected)
}
