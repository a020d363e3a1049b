package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
)

// mondayMorning is when a test's store begins in its own time, whatever the machine's clock says.
var mondayMorning = time.Date(2026, 1, 5, 1, 0, 0, 0, time.UTC)

func open(t testing.TB, root string, o Options) *Store {
	t.Helper()
	if o.Steady == nil {
		o.Steady = (&clock{}).steady
	}
	s, err := Open(root, "registry", o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.path(timesFile)); errors.Is(err, fs.ErrNotExist) {
		begun := stamp{name: "generations/0.0.manifest", wall: mondayMorning, at: time.Duration(mondayMorning.UnixNano()), boot: "test"}
		if err := os.WriteFile(s.path(timesFile), []byte(begun.line()), 0o660); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func hashOf(b []byte) replication.Hash { return blake3.Sum256(b) }

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// put stores each of data as a chunk in one pack.
func put(t testing.TB, s *Store, data ...[]byte) []PackFile {
	t.Helper()
	w := s.NewPack()
	defer w.Abort()
	for _, d := range data {
		if err := w.Put(hashOf(d), d, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	ps, err := w.Seal()
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func id(term, seq uint64) replication.ID { return replication.ID{Term: term, Seq: seq} }

// manifest is a generation with one file per data.
func manifest(at, parent replication.ID, data ...[]byte) *replication.Manifest {
	es := replication.NewEntries(&replication.Entry{Path: ".", Type: replication.TypeDir, Mode: 0o755})
	for i, d := range data {
		e := &replication.Entry{
			Path: fmt.Sprintf("f%04d", i), Type: replication.TypeFile, Mode: 0o644, MtimeNs: 42, Size: int64(len(d)), Flags: replication.FlagAppendOnly,
			Xattrs: map[string][]byte{"user.\xff": {0, 1}, "user.b": nil},
		}
		if len(d) > 0 {
			e.Chunks = []replication.Chunk{{Offset: 0, Length: int64(len(d)), Hash: hashOf(d)}}
		}
		es.Set(e)
	}
	return &replication.Manifest{
		Format: replication.FormatVersion, Service: "registry", ID: at, Parent: parent,
		CapturedAt: time.Unix(12, 34).UTC(), Definition: []byte(`{}`), Images: []string{"sha256:ab"},
		Volumes: []replication.Volume{{Name: "data", Entries: es, Skipped: 1}},
	}
}

func commit(t testing.TB, s *Store, m *replication.Manifest) {
	t.Helper()
	if err := s.Commit(m); err != nil {
		t.Fatal(err)
	}
}

// incoming writes an encoded manifest as a sender would.
func incoming(t testing.TB, s *Store, b []byte) string {
	t.Helper()
	p := filepath.Join(s.IncomingDir(), fmt.Sprintf("%d.manifest", rand.Uint64()))
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestManifestRoundTrip(t *testing.T) {
	m := manifest(id(3, 17), id(2, 9), []byte("a"), nil, []byte("c"))
	m.Final, m.FreezeNs = true, 5
	for _, e := range []*replication.Entry{
		{Path: "g\xff\xfe", Type: replication.TypeSymlink, Target: "../../\xfa", Mode: 0o777},
		{Path: "h", Type: replication.TypeFile, Link: "f0000"},
		{Path: "i", Type: replication.TypeBlock, Rdev: 259, Mode: 0o4755, UID: 1<<32 - 1, GID: 7, MtimeNs: -5},
	} {
		m.Volumes[0].Entries.Set(e)
	}
	b, err := EncodeManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeManifest(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	// A nil and an empty attribute value are the same to the file system.
	for e := range m.Volumes[0].Entries.All() {
		for k, v := range e.Xattrs {
			if x := got.Volumes[0].Entries.Get(e.Path).Xattrs; len(v) == 0 && len(x[k]) == 0 {
				x[k] = v
			}
		}
	}
	if d := cmp.Diff(m, got, cmp.Transformer("list", func(es *replication.Entries) []*replication.Entry { return slices.Collect(es.All()) })); d != "" {
		t.Fatalf("decoded differs (-want +got):\n%s", d)
	}
	again, err := EncodeManifest(got)
	if err != nil || !bytes.Equal(b, again) {
		t.Fatalf("encoding is not stable: %v", err)
	}
	for n := range b {
		if _, err := DecodeManifest(b[:n], nil); err == nil {
			t.Fatalf("the first %d of %d bytes were accepted", n, len(b))
		}
	}
}

func TestCommitRules(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	a, b := []byte("alpha"), noise(1, 100_000)
	put(t, s, a, b)
	first := manifest(id(1, 1), id(0, 0), a)
	commit(t, s, first)
	if err := s.Fence(3); err != nil {
		t.Fatal(err)
	}
	m2 := manifest(id(3, 1), id(1, 1), a, b)
	commit(t, s, m2)
	commit(t, s, m2) // a lost answer is asked again
	other := manifest(id(3, 1), id(1, 1), a)
	long := manifest(id(3, 2), id(3, 1), a)
	grown := long.Volumes[0].Entries.Get("f0000")
	grown.Size, grown.Chunks[0].Length = 6, 6
	wrongService := manifest(id(3, 2), id(3, 1), a)
	wrongService.Service = "other"
	div := manifest(id(3, 2), id(3, 1), a)
	div.Diverged = true
	escape := func(path string) *replication.Manifest {
		m := manifest(id(3, 2), id(3, 1))
		m.Volumes[0].Entries.Set(&replication.Entry{Path: path, Type: replication.TypeFile})
		return m
	}
	volume := manifest(id(3, 2), id(3, 1), a)
	volume.Volumes[0].Name = "../data"
	tests := []struct {
		name string
		m    *replication.Manifest
		want error
	}{
		{"stale term", manifest(id(2, 9), id(1, 1), a), replication.ErrStaleTerm},
		{"wrong parent", manifest(id(3, 3), id(3, 2), a), replication.ErrWrongParent},
		{"a root where there is a head", manifest(id(3, 3), id(0, 0), a), replication.ErrWrongParent},
		{"head with other content", other, replication.ErrWrongParent},
		{"missing chunk", manifest(id(3, 2), id(3, 1), []byte("nowhere")), replication.ErrMissingChunks},
		{"chunk of another length", long, replication.ErrFormat},
		{"other service", wrongService, replication.ErrFormat},
		{"diverged", div, replication.ErrFormat},
		{"escaping path", escape("../x"), replication.ErrBadPath},
		{"absolute path", escape("/etc/passwd"), replication.ErrBadPath},
		{"dot dot inside", escape("a/../../x"), replication.ErrBadPath},
		{"NUL", escape("a\x00b"), replication.ErrBadPath},
		{"no parent directory", escape("a/b"), replication.ErrBadPath},
		{"volume name", volume, replication.ErrBadPath},
	}
	before, err := s.State()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := s.Commit(tt.m); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			after, err := s.State()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, after); d != "" {
				t.Errorf("a refusal changed the store:\n%s", d)
			}
			if _, err := s.Load(id(3, 1)); err != nil {
				t.Error(err)
			}
		})
	}
	commit(t, s, manifest(id(7, 1), id(3, 1), b)) // a higher term raises
	if term, err := s.Term(); err != nil || term != 7 {
		t.Fatalf("term %d, %v", term, err)
	}
}

func TestCommitEncoded(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	put(t, s, []byte("a"))
	b, err := EncodeManifest(manifest(id(1, 1), id(0, 0), []byte("a")))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(b)
	flipped[len(b)/2] ^= 1
	for name, bad := range map[string][]byte{"flipped": flipped, "truncated": b[:len(b)-1], "empty": nil} {
		p := incoming(t, s, bad)
		if err := s.CommitEncoded(p, id(1, 1)); !errors.Is(err, replication.ErrBadHash) && !errors.Is(err, replication.ErrTruncated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p := incoming(t, s, b)
	if err := s.CommitEncoded(p, id(1, 2)); !errors.Is(err, replication.ErrFormat) {
		t.Errorf("another name: %v", err)
	}
	w, err := os.OpenFile(p, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CommitEncoded(p, id(1, 1)); err == nil || !strings.Contains(err.Error(), "open for writing") {
		t.Errorf("a file that can still be written to: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.CommitEncoded(p, id(1, 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.CommitEncoded(incoming(t, s, b), id(1, 1)); err != nil {
		t.Fatalf("again: %v", err)
	}
	kept, err := os.ReadFile(s.manifestFile(id(1, 1)))
	if err != nil || !bytes.Equal(kept, b) {
		t.Fatalf("what is kept is not what was sent: %v", err)
	}
	st, err := s.State()
	if err != nil || st.HeadSum != manifest(id(1, 1), id(0, 0), []byte("a")).Sum().String() || st.Head != id(1, 1) {
		t.Fatalf("%+v, %v", st, err)
	}
}

func TestServiceNames(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"", ".", "..", "a/b", "../a", "-a", ".a", "a\x00", strings.Repeat("a", 300), "a\n"} {
		if _, err := Open(root, name, Options{}); !errors.Is(err, replication.ErrBadPath) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestModesWhateverTheUmask(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	put(t, s, []byte("a"))
	commit(t, s, manifest(id(1, 1), id(0, 0), []byte("a")))
	if err := s.SetHave([]string{"sha256:ab"}, nil); err != nil {
		t.Fatal(err)
	}
	err := filepath.Walk(s.Dir(), func(p string, fi os.FileInfo, err error) error {
		switch {
		case err != nil:
			return err
		case fi.IsDir() && (fi.Mode()&os.ModeSetgid == 0 || fi.Mode().Perm() != 0o770):
			t.Errorf("%s: %v", p, fi.Mode())
		case !fi.IsDir() && fi.Mode().Perm() != fileMode && fi.Mode().Perm() != sealMode:
			t.Errorf("%s: %v", p, fi.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
