package fault

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
	"github.com/understudy-ha/understudy/replication/wire"
)

// storeOf is what a node's store has accepted: all but what senders write to.
func storeOf(t testing.TB, n *node) listing {
	t.Helper()
	l := list(t, filepath.Join(n.root(), "services", svc))
	for path := range l {
		if path == "." || path == "incoming" || strings.HasPrefix(path, "incoming/") {
			delete(l, path)
		}
	}
	return l
}

// send is a sender that does as it likes: it has the content of the active's head sent,
// then does f.
func (p *pair) send(f func(c *wire.Client, head *replication.Manifest) error) error {
	p.t.Helper()
	ctx := context.Background()
	c, err := wire.Dial(ctx, p.sshd.client)
	must(p.t, err)
	defer c.Close()
	var head *replication.Manifest
	p.n1.withStore(p.t, func(s *store.Store) {
		id, err := s.Head()
		must(p.t, err)
		head, err = s.Load(id)
		must(p.t, err)
		missing, err := c.Missing(ctx, svc, treetest.Chunks(head))
		must(p.t, err)
		packs, cleanup, err := s.PacksFor(missing)
		defer cleanup()
		must(p.t, err)
		for _, f := range packs {
			must(p.t, c.PutPack(ctx, svc, wire.File{Path: f.Path, Hash: f.Hash, Size: f.Size}, nil))
		}
	})
	return f(c, head)
}

// refuses has a forgery of the next generation, which is sealed, refused, with nothing
// changed by it.
func (p *pair) refuses(want error, forge func(m *replication.Manifest) []byte) {
	p.t.Helper()
	var before listing
	err := p.send(func(c *wire.Client, m *replication.Manifest) error {
		before = storeOf(p.t, p.n2)
		m.Delta = nil
		b := forge(m)
		return c.Commit(context.Background(), svc, m.ID, b)
	})
	var refused *wire.Refusal
	if !errors.Is(err, want) || !errors.As(err, &refused) {
		p.t.Errorf("refused with %v, not with %v", err, want)
	}
	if d := before.differs(storeOf(p.t, p.n2)); d != "" {
		p.t.Errorf("the store changed:\n%s", d)
	}
	p.check()
}

func encode(t testing.TB, m *replication.Manifest) []byte {
	t.Helper()
	b, err := store.EncodeManifest(m)
	must(t, err)
	return b
}

func TestForgedGenerations(t *testing.T) {
	p := plainPair(t)
	id := func(term, seq uint64) replication.ID { return replication.ID{Term: term, Seq: seq} }
	p.term = 3
	p.step()
	p.round()
	p.step()
	p.sealHome()
	for name, tt := range map[string]struct {
		want  error
		forge func(*replication.Manifest)
	}{
		"an old term":           {replication.ErrStaleTerm, func(m *replication.Manifest) { m.ID = id(2, 9); m.Parent = id(1, 1) }},
		"a parent of old":       {replication.ErrWrongParent, func(m *replication.Manifest) { m.Parent = id(1, 1) }},
		"no parent":             {replication.ErrWrongParent, func(m *replication.Manifest) { m.Parent = replication.ID{} }},
		"a parent not here":     {replication.ErrWrongParent, func(m *replication.Manifest) { m.Parent.Seq++; m.ID.Seq += 5 }},
		"a parent after it":     {replication.ErrWrongParent, func(m *replication.Manifest) { m.ID.Seq++; m.Parent = m.ID; m.Parent.Seq-- }},
		"the head anew":         {replication.ErrWrongParent, func(m *replication.Manifest) { m.ID = m.Parent; m.Parent.Seq--; m.Parent = id(1, 1) }},
		"another service":       {replication.ErrFormat, func(m *replication.Manifest) { m.Service = "other" }},
		"a diverged one":        {replication.ErrFormat, func(m *replication.Manifest) { m.Diverged = true }},
		"the last of all terms": {replication.ErrFormat, func(m *replication.Manifest) { m.ID = id(math.MaxUint64, 1) }},
		"content of nobody": {replication.ErrMissingChunks, func(m *replication.Manifest) {
			e := *m.Volumes[0].Entries.Get("still")
			e.Chunks = []replication.Chunk{{Length: e.Size, Hash: blake3.Sum256([]byte("nobody has it"))}}
			m.Volumes[0].Entries.Set(&e)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			p.refuses(tt.want, func(m *replication.Manifest) []byte { tt.forge(m); return encode(t, m) })
		})
	}
	p.t = t
	p.heal()
}

// TestFencedSender: the standby was promoted. What the former active goes on sending is
// refused, and it is told why, before a byte of content is sent.
func TestFencedSender(t *testing.T) {
	p := plainPair(t)
	must(t, p.n2.withEngine(nil, func(e *engine.Engine) error { return e.Fence(7) }))
	p.step()
	p.sealHome()
	before, taken := storeOf(t, p.n2), p.sshd.taken.Load()
	if err := p.shipped(); !errors.Is(err, replication.ErrStaleTerm) {
		t.Errorf("a sender of an old term: %v", err)
	}
	if d := before.differs(storeOf(t, p.n2)); d != "" {
		t.Errorf("the store changed:\n%s", d)
	}
	if n := p.sshd.taken.Load() - taken; n > 50<<10 {
		t.Errorf("it sent %d bytes nevertheless", n)
	}
	p.check()
	p.term = 8
	p.step()
	p.sealHome() // until there is a generation of its term it has nothing that would be taken
	p.heal()
}

// TestForgedClock: whatever the sender says of the time, what the receiver keeps, and
// what it says of when it came, are by its own clock.
func TestForgedClock(t *testing.T) {
	p := plainPair(t)
	begun := time.Now().Add(-time.Minute)
	for _, at := range []time.Time{time.Unix(1<<33, 0), time.Unix(0, 0), time.Unix(1<<37, 0), time.Unix(-1<<33, 0)} {
		p.step()
		id := p.sealHome()
		must(t, p.send(func(c *wire.Client, m *replication.Manifest) error {
			m.Delta, m.CapturedAt = nil, at
			return c.Commit(context.Background(), svc, m.ID, encode(t, m))
		}))
		if head := p.n2.head(t); head != id {
			t.Fatalf("the head is %s, not %s", head, id)
		}
		p.check()
		p.heal()
	}
	p.n2.withStore(t, func(s *store.Store) {
		before, err := s.History()
		must(t, err)
		for _, g := range before {
			if g.At.Before(begun) || g.At.After(time.Now().Add(time.Minute)) {
				t.Errorf("generation %s is said to have come at %s", g.ID, g.At)
			}
		}
		// They all came today: by the sender's clock it would be days, one of them to come.
		_, err = s.Prune(store.Policy{KeepLast: 3, Daily: 100})
		must(t, err)
		after, err := s.History()
		must(t, err)
		if last := before[len(before)-3:]; len(after) > 4 || !reflect.DeepEqual(after[len(after)-3:], last) { // 4: around midnight
			t.Errorf("of %v are kept %v", before, after)
		}
	})
	p.check()
	p.heal()
}

// TestHostilePaths: names that lead out of the volume come no further than the wire.
func TestHostilePaths(t *testing.T) {
	p := plainPair(t)
	p.step()
	p.sealHome()
	outside := filepath.Dir(p.n2.tree())
	write(t, filepath.Join(outside, "victim"), []byte("untouched"))
	victims := list(t, outside)
	// A name of the same length is put in its place, with all sums made right again:
	// our own encoder refuses to write such a thing.
	for _, bad := range []string{
		"../victim", "/etc/passwd", "a/../../victim", "./victim", "victim/", "sub//victim", "..", "sub/..", "sub/./x", "nul\x00nul",
		"link/victim", "still/victim", "nowhere/victim", // below a symlink, a file, nothing
	} {
		t.Run(strings.ReplaceAll(bad, "/", "|"), func(t *testing.T) {
			p.t = t
			stand := strings.ReplaceAll(bad, "/", "z") // and so in the same order
			if stand == bad {
				stand = "q" + strings.Repeat("z", len(bad)-1)
			}
			p.refuses(replication.ErrBadPath, func(m *replication.Manifest) []byte {
				m.Volumes[0].Entries.Set(&replication.Entry{Path: stand, Type: replication.TypeSymlink, Mode: 0o777, Target: "elsewhere"})
				return swap(t, encode(t, m), stand, bad)
			})
		})
	}
	t.Run("a hard link to outside", func(t *testing.T) {
		p.t = t
		p.refuses(replication.ErrBadPath, func(m *replication.Manifest) []byte {
			m.Volumes[0].Entries.Set(&replication.Entry{Path: "zz-link", Type: replication.TypeFile, Link: "mode"})
			return swap(t, encode(t, m), "mode", "/bin")
		})
	})
	t.Run("a volume outside", func(t *testing.T) {
		p.t = t
		p.refuses(replication.ErrBadPath, func(m *replication.Manifest) []byte { return swap(t, encode(t, m), "data", "../x") })
	})
	p.t = t
	p.heal()
	delete(victims, "_data")
	for path := range victims {
		if strings.HasPrefix(path, "_data/") {
			delete(victims, path)
		}
	}
	now := list(t, outside)
	for path, line := range victims {
		if path != "." && now[path] != line {
			t.Errorf("outside of the volume %q became %q", path, now[path])
		}
	}
	if _, err := os.Lstat("/etc/passwd"); err != nil {
		t.Error(err)
	}
}

// swap puts text of the same length into an encoded manifest.
func swap(t testing.TB, b []byte, from, to string) []byte {
	t.Helper()
	const prefix = len("USMF") + 1
	r, err := zstd.NewReader(bytes.NewReader(b[prefix : len(b)-32]))
	must(t, err)
	defer r.Close()
	var plain bytes.Buffer
	_, err = plain.ReadFrom(r)
	must(t, err)
	// As CBOR has strings of less than 24 bytes, of bytes or of text.
	old := plain.Bytes()
	now := old
	for _, kind := range []byte{0x40, 0x60} {
		head := []byte{kind + byte(len(from))}
		now = bytes.ReplaceAll(now, append(head, from...), append(head, to...))
	}
	if bytes.Equal(old, now) {
		t.Fatalf("the manifest does not have %q", from)
	}
	out := bytes.NewBuffer(bytes.Clone(b[:prefix]))
	w, err := zstd.NewWriter(out)
	must(t, err)
	_, err = w.Write(now)
	must(t, err)
	must(t, w.Close())
	sum := blake3.Sum256(out.Bytes())
	return append(out.Bytes(), sum[:]...)
}
