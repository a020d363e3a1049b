package store

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication"
)

// scattered is a file in many pieces, each of the content that its number names.
func scattered(path string, of []int, data [][]byte) *replication.Entry {
	e := &replication.Entry{Path: path, Type: replication.TypeFile, Mode: 0o600}
	for _, n := range of {
		e.Chunks = append(e.Chunks, replication.Chunk{Offset: e.Size, Length: int64(len(data[n])), Hash: hashOf(data[n])})
		e.Size += int64(len(data[n]))
	}
	return e
}

// twoScattered are two generations of a file in many pieces, one of which changed, and
// a store that has the first of them, and the content of both.
func twoScattered(t *testing.T, o Options) (s *Store, base, next *replication.Manifest) {
	t.Helper()
	s = open(t, t.TempDir(), o)
	var data [][]byte
	var of []int
	for i := range 5000 {
		data, of = append(data, noise(uint64(i+1), 20)), append(of, i)
	}
	put(t, s, data...)
	put(t, s, []byte("news"))
	base = manifest(id(1, 1), id(0, 0))
	base.Volumes[0].Entries.Set(scattered("db", of, data))
	commit(t, s, base)
	changed := *base.Volumes[0].Entries.Get("db")
	changed.Chunks = slices.Clone(changed.Chunks)
	changed.Chunks[1234] = replication.Chunk{Offset: changed.Chunks[1234].Offset, Length: 4, Hash: hashOf([]byte("news"))}
	next = after(base, []*replication.Entry{&changed})
	next.Delta = nil
	next.Delta = next.DeltaFrom(base)
	return s, base, next
}

// What is sent and kept of a change in a file of many pieces is the change; and it
// reads the same on the other node, from memory, cold, and after its base was pruned.
func TestAChangeInAScatteredFileIsSmall(t *testing.T) {
	var c clock
	s, base, next := twoScattered(t, Options{Now: c.now, Steady: c.steady})
	b, err := EncodeManifest(next)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 1000 || b[len(manifestMagic)] != splicedVersion {
		t.Errorf("one of %d pieces changed: a delta of %d bytes, version %d", len(next.Volumes[0].Entries.Get("db").Chunks), len(b), b[len(manifestMagic)])
	}
	if added := slices.Collect(Added(next)); len(added) != 1 || added[0] != hashOf([]byte("news")) {
		t.Errorf("%d chunks are asked for", len(added))
	}
	c.ahead += 2 * time.Hour
	for range 2 { // the second time as a lost answer is asked again
		if err := s.CommitEncoded(incoming(t, s, b), next.ID); err != nil {
			t.Fatal(err)
		}
	}
	cold := func() *Store { return open(t, strings.TrimSuffix(s.Dir(), "/services/registry"), Options{}) }
	same := func(st *Store) *replication.Manifest {
		t.Helper()
		got, err := st.Load(next.ID)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Volumes[0].Entries.Get("db").Equal(next.Volumes[0].Entries.Get("db")) {
			t.Error("the file is another")
		}
		return got
	}
	same(s)
	again, err := EncodeManifest(same(cold()))
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("read and encoded again it is another: %v", err)
	}
	c.ahead += 2 * time.Hour
	third := after(next, []*replication.Entry{file("small", []byte("news"))})
	commit(t, s, third)
	if _, err := s.Prune(Policy{KeepLast: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(base.ID); !errors.Is(err, replication.ErrNotFound) {
		t.Fatalf("the base was to be pruned: %v", err)
	}
	if m := same(cold()); m.Delta != nil {
		t.Error("it is a delta from what is gone")
	}
}

// A delta without splices stays readable for those who know none, and a version that
// nobody knows is refused.
func TestManifestVersions(t *testing.T) {
	_, base, next := twoScattered(t, Options{})
	for _, m := range []*replication.Manifest{base, after(base, []*replication.Entry{dir("d")})} {
		b, err := EncodeManifest(m)
		if err != nil || b[len(manifestMagic)] != manifestVersion {
			t.Errorf("version %d, %v", b[len(manifestMagic)], err)
		}
	}
	b := forge(t, next)
	b[len(manifestMagic)] = splicedVersion + 1
	if _, err := DecodeManifest(b, nil); !errors.Is(err, replication.ErrFormat) || !strings.Contains(err.Error(), "install the same understudy") {
		t.Errorf("a version to come: %v", err)
	}
}

// Splices by a sender who wants to do harm.
func TestHostileSplices(t *testing.T) {
	s, base, good := twoScattered(t, Options{})
	db := good.Delta.Volumes[0].Put[0]
	news := good.Delta.Volumes[0].Splices["db"][0].Put[0]
	beyond := news
	beyond.Length = 5
	early := news
	early.Offset -= 30
	tests := map[string]struct {
		put *replication.Entry
		ss  []replication.Splice
	}{
		"of a file that is not there":  {file("new", nil), []replication.Splice{{At: 0, Put: []replication.Chunk{news}}}},
		"of a directory":               {dir("db"), []replication.Splice{{At: 0, Del: 1}}},
		"of a link":                    {link("db2", "db"), []replication.Splice{{At: 0, Del: 1}}},
		"beyond the base":              {db, []replication.Splice{{At: 5001, Put: []replication.Chunk{news}}}},
		"too many go":                  {db, []replication.Splice{{At: 4999, Del: 2}}},
		"nothing for nothing":          {db, []replication.Splice{{At: 1}}},
		"twice":                        {db, []replication.Splice{{At: 1, Del: 1}, {At: 1, Del: 1}}},
		"negative":                     {db, []replication.Splice{{At: -1, Del: 1}}},
		"over what is before":          {db, []replication.Splice{{At: 1234, Del: 1, Put: []replication.Chunk{early}}}},
		"content that nobody has":      {db, []replication.Splice{{At: 1234, Del: 1, Put: []replication.Chunk{{Offset: news.Offset, Length: 4, Hash: replication.Hash{1}}}}}},
		"beyond its chunk":             {db, []replication.Splice{{At: 1234, Del: 1, Put: []replication.Chunk{beyond}}}},
		"another result than it says":  {db, []replication.Splice{{At: 1233, Del: 2, Put: []replication.Chunk{news}}}},
		"more than the file is long":   {db, []replication.Splice{{At: 4999, Put: []replication.Chunk{{Offset: 1 << 40, Length: 4, Hash: news.Hash}}}}},
		"a base's chunk at two places": {db, []replication.Splice{{At: 1234, Del: 1, Put: slices.Repeat([]replication.Chunk{news}, 2)}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := *good
			d := *good.Delta
			d.Volumes = []replication.VolumeDelta{{Name: "data", Put: []*replication.Entry{tt.put}, Splices: map[string][]replication.Splice{tt.put.Path: tt.ss}}}
			m.Delta = &d
			err := s.CommitEncoded(incoming(t, s, forge(t, &m)), m.ID)
			known := []error{replication.ErrFormat, replication.ErrBadPath, replication.ErrMissingChunks, replication.ErrBadHash}
			if err == nil || !slices.ContainsFunc(known, func(k error) bool { return errors.Is(err, k) }) {
				t.Errorf("%v", err)
			}
		})
	}
	if head, err := s.Head(); err != nil || head != base.ID {
		t.Errorf("the head is %s, %v", head, err)
	}
	em, err := encMode()
	if err != nil {
		t.Fatal(err)
	}
	dm, err := decMode()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	enc := em.NewEncoder(&b)
	h := header{
		Format: good.Format, Service: good.Service, ID: good.ID, Parent: good.Parent, Delta: &deltaHeader{Base: base.ID, Sum: base.Sum()},
		Volumes: []volumeHeader{{Name: "data", Entries: 1}},
	}
	if err := errors.Join(enc.Encode(h), enc.Encode(putItem{Entry: *db, Splices: good.Delta.Volumes[0].Splices["db"]})); err != nil {
		t.Fatal(err)
	}
	if _, _, err := decodeItems(dm.NewDecoder(&b)); !errors.Is(err, replication.ErrFormat) {
		t.Errorf("chunks and splices: %v", err)
	}
	if err := s.CommitEncoded(incoming(t, s, forge(t, good)), good.ID); err != nil {
		t.Errorf("the good one after all: %v", err)
	}
}

// A pack that was lost is noticed also where a delta names nothing of it any more.
func TestASpliceOfWhatWasLost(t *testing.T) {
	s, _, next := twoScattered(t, Options{})
	b, err := EncodeManifest(next)
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.index.all()
	if err != nil || len(all) != 2 {
		t.Fatal(len(all), err)
	}
	for _, p := range all {
		if len(p.chunks) > 1 {
			if err := os.Remove(p.path()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.CommitEncoded(incoming(t, s, b), next.ID); !errors.Is(err, replication.ErrMissingChunks) {
		t.Errorf("%v", err)
	}
}
