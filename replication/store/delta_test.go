package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

func file(path string, data []byte) *replication.Entry {
	return &replication.Entry{
		Path: path, Type: replication.TypeFile, Mode: 0o600, Size: int64(len(data)),
		Chunks: []replication.Chunk{{Length: int64(len(data)), Hash: hashOf(data)}},
	}
}

func dir(path string) *replication.Entry {
	return &replication.Entry{Path: path, Type: replication.TypeDir, Mode: 0o700}
}

func link(path, to string) *replication.Entry {
	return &replication.Entry{Path: path, Type: replication.TypeFile, Link: to}
}

// after is the generation that follows base, with put and without del in volume "data".
func after(base *replication.Manifest, put []*replication.Entry, del ...string) *replication.Manifest {
	m := *base
	m.ID.Seq++
	m.Parent = base.ID
	v := base.Volumes[0]
	v.Entries = v.Entries.Clone()
	for _, path := range del {
		v.Entries.Delete(path)
	}
	for _, e := range put {
		v.Entries.Set(e)
	}
	m.Volumes = []replication.Volume{v}
	m.Delta = &replication.Delta{Base: base.ID, BaseSum: base.Sum(), Volumes: []replication.VolumeDelta{{Name: v.Name, Skipped: v.Skipped, Put: put, Del: del}}}
	return &m
}

// forge encodes without a check.
func forge(t *testing.T, m *replication.Manifest) []byte {
	t.Helper()
	em, err := encMode()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	out.WriteString(manifestMagic)
	out.WriteByte(manifestVersion)
	zw, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(encodeItems(em.NewEncoder(zw), m), zw.Close()); err != nil {
		t.Fatal(err)
	}
	sum := blake3.Sum256(out.Bytes())
	out.Write(sum[:])
	return out.Bytes()
}

// A delta that would leave something else than a tree is refused, and the store is as before.
func TestHostileDeltas(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data := []byte("content")
	put(t, s, data)
	base := manifest(id(1, 1), id(0, 0))
	for _, e := range []*replication.Entry{dir("d"), file("d/f", data), file("d/g", data), link("d/l", "d/f"), dir("e")} {
		base.Volumes[0].Entries.Set(e)
	}
	commit(t, s, base)
	list := func(es ...*replication.Entry) []*replication.Entry { return es }
	tests := map[string]*replication.Manifest{
		"into nowhere":                 after(base, list(file("x/f", data))),
		"into a file":                  after(base, list(file("d/g/f", data))),
		"a file for a full directory":  after(base, list(file("d", data))),
		"a directory goes alone":       after(base, nil, "d"),
		"a linked file goes alone":     after(base, nil, "d/f"),
		"a linked file changes type":   after(base, list(&replication.Entry{Path: "d/f", Type: replication.TypeFIFO})),
		"a linked file becomes a link": after(base, list(link("d/g", "d/f"), link("d/f", "d/e"))),
		"link to a directory":          after(base, list(link("d/x", "e"))),
		"link to a link":               after(base, list(link("d/x", "d/l"))),
		"link to a later file":         after(base, list(link("d/a", "d/f"))),
		"link to nothing":              after(base, list(link("d/x", "d/y"))),
		"link out":                     after(base, list(link("d/x", "../f"))),
		"escape":                       after(base, list(file("../f", data))),
		"not sorted":                   after(base, list(file("e/b", data), file("e/a", data))),
		"twice":                        after(base, list(file("e/a", data), file("e/a", data))),
		"put and gone":                 after(base, list(file("d/g", data)), "d/g"),
		"gone before":                  after(base, nil, "d/nothing"),
		"the root goes":                after(base, nil, "."),
		"the root becomes a file":      after(base, list(file(".", data))),
		"content nobody has":           after(base, list(file("d/x", []byte("nowhere")))),
		"beyond its chunk":             after(base, list(&replication.Entry{Path: "d/x", Type: replication.TypeFile, Size: 5, Chunks: []replication.Chunk{{Length: 5, Skip: 4, Hash: hashOf(data)}}})),
	}
	other := after(base, list(file("d/x", data)))
	other.Delta.BaseSum[0] ^= 1
	tests["from other content"] = other
	older := after(base, list(file("d/x", data)))
	older.Delta.Base = id(1, 0)
	tests["from no generation"] = older
	gone := after(base, nil)
	gone.Delta.Gone = []string{"nothing"}
	tests["a volume that there is not goes"] = gone
	lie := after(base, list(file("d/x", data)))
	lie.Delta.Volumes[0].Put = nil
	tests["another result than it says"] = lie
	for name, m := range tests {
		t.Run(name, func(t *testing.T) {
			err := s.CommitEncoded(incoming(t, s, forge(t, m)), m.ID)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, known := range []error{replication.ErrFormat, replication.ErrBadPath, replication.ErrWrongParent, replication.ErrMissingChunks, replication.ErrBadHash} {
				if errors.Is(err, known) {
					return
				}
			}
			t.Errorf("refused without a name: %v", err)
		})
	}
	if head, err := s.Head(); err != nil || head != base.ID {
		t.Errorf("the head is %s, %v", head, err)
	}
	good := after(base, list(file("d/x", data), link("d/y", "d/x")), "d/l")
	if err := s.CommitEncoded(incoming(t, s, forge(t, good)), good.ID); err != nil {
		t.Errorf("a good one after all: %v", err)
	}
	if err := s.CommitEncoded(incoming(t, s, forge(t, good)), good.ID); err != nil {
		t.Errorf("the good one again: %v", err)
	}
}

// A history of deltas reads the same from memory, from disk, and after whatever
// Prune did to it, also when that was killed at any of its steps.
func TestDeltasOutlivePruning(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	root := t.TempDir()
	killAt, step := -1, 0
	errKilled := errors.New("killed")
	hook := func(string) error {
		step++
		if step == killAt {
			return errKilled
		}
		return nil
	}
	var c clock
	s := open(t, root, Options{Now: c.now, Steady: c.steady, Hook: hook})
	m := manifest(id(1, 1), id(0, 0))
	want := map[replication.ID]replication.Hash{}
	grow := func() {
		data := noise(r.Uint64(), 100)
		put(t, s, data)
		next := after(m, []*replication.Entry{file(fmt.Sprintf("f%d", r.IntN(30)), data)})
		if len(want) == 0 {
			next = m
		}
		commit(t, s, next)
		m = next
		want[m.ID] = m.Sum()
	}
	for range 40 {
		grow()
	}
	for round := range 60 {
		grow()
		policy := Policy{KeepLast: 2 + r.IntN(30), Applied: []replication.ID{id(1, 1+uint64(r.IntN(40))), id(1, 1+uint64(r.IntN(40)))}}
		c.ahead += 2 * time.Hour
		step, killAt = 0, 1+r.IntN(12)
		if _, err := s.Prune(policy); err != nil && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		killAt = -1
		cold := open(t, root, Options{Now: c.now})
		ids := generations(t, cold)
		if ids[len(ids)-1] != m.ID || len(ids) < 2 {
			t.Fatalf("round %d: left are %v", round, ids)
		}
		r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		for _, at := range ids {
			for _, st := range []*Store{cold, s} {
				got, err := st.Load(at)
				if err != nil {
					t.Fatalf("round %d, generation %s: %v", round, at, err)
				}
				if got.ID != at || got.Sum() != want[at] {
					t.Fatalf("round %d: generation %s is another", round, at)
				}
				for _, h := range treetest.Chunks(got) {
					if !st.Has(h) {
						t.Fatalf("round %d: content of generation %s is gone", round, at)
					}
				}
			}
		}
	}
}

// What is kept of a generation is in proportion to what changed.
func TestADeltaIsSmall(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	var all [][]byte
	for i := range 500 {
		all = append(all, fmt.Appendf(nil, "content %d", i))
	}
	put(t, s, all...)
	base := manifest(id(1, 1), id(0, 0), all...)
	commit(t, s, base)
	next := after(base, []*replication.Entry{file("f0007", all[3])})
	commit(t, s, next)
	size := func(at replication.ID) int64 {
		fi, err := os.Stat(s.manifestFile(at))
		if err != nil {
			t.Fatal(err)
		}
		return fi.Size()
	}
	if whole, delta := size(base.ID), size(next.ID); delta*20 > whole {
		t.Errorf("one changed entry of %d makes a manifest of %d bytes; the whole has %d", base.Volumes[0].Entries.Len(), delta, whole)
	}
	if got, err := open(t, strings.TrimSuffix(s.Dir(), "/services/registry"), Options{}).Load(next.ID); err != nil || got.Sum() != next.Sum() {
		t.Errorf("%v", err)
	}
}

// What a kill left beyond the head never becomes history, and no chain breaks
// where a Reset is killed at any of its steps.
func TestBeyondTheHead(t *testing.T) {
	data := []byte("content")
	for killAt := range 12 {
		step := 0
		armed := false
		s := open(t, t.TempDir(), Options{Hook: func(string) error {
			if step++; armed && step > killAt {
				return errors.New("killed")
			}
			return nil
		}})
		put(t, s, data)
		base := manifest(id(1, 1), id(0, 0))
		commit(t, s, base)
		second := after(base, []*replication.Entry{file("a", data)})
		third := after(second, []*replication.Entry{file("b", data)})
		fourth := after(third, []*replication.Entry{file("c", data)})
		for _, m := range []*replication.Manifest{second, third, fourth} {
			commit(t, s, m)
		}
		step, armed = 0, true
		_ = s.Reset(base.ID)
		armed = false
		head, err := s.Head()
		if err != nil {
			t.Fatal(err)
		}
		next := *fourth
		next.ID, next.Delta = id(2, 1), nil
		if next.Parent = head; head.Compare(base.ID) > 0 {
			continue // killed before anything
		}
		commit(t, s, &next)
		cold := open(t, strings.TrimSuffix(s.Dir(), "/services/registry"), Options{})
		ids := generations(t, cold)
		if len(ids) != 2 || ids[0] != base.ID || ids[1] != next.ID {
			t.Errorf("killed at step %d: history is %v", killAt, ids)
		}
		for _, at := range ids {
			if _, err := cold.Load(at); err != nil {
				t.Errorf("killed at step %d: %v", killAt, err)
			}
		}
	}
}
