package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication"
)

// receive sends a pack as it is, or changed on the way.
func receive(t testing.TB, s *Store, p PackFile, change func([]byte) []byte) error {
	t.Helper()
	b, err := os.ReadFile(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		b = change(b)
	}
	to := filepath.Join(s.IncomingDir(), packName(p.Hash))
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return s.AcceptPack(to, p.Hash)
}

func TestPacksTravel(t *testing.T) {
	home, away := open(t, t.TempDir(), Options{PackSize: 300_000}), open(t, t.TempDir(), Options{})
	var data [][]byte
	for i := range uint64(10) {
		data = append(data, noise(i, 100_000), bytes.Repeat([]byte{byte(i)}, replication.ChunkSize), []byte{byte(i)})
	}
	if n := len(put(t, home, data...)); n < 3 {
		t.Fatalf("%d packs, they should be cut", n)
	}
	hs := make([]replication.Hash, 0, len(data))
	for _, d := range data {
		hs = append(hs, hashOf(d))
	}
	send := func(want []replication.Hash) (whole, temporary int) {
		t.Helper()
		ps, cleanup, err := home.PacksFor(want)
		defer cleanup()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ps {
			if p.Temporary {
				temporary++
			} else {
				whole++
			}
			if err := receive(t, away, p, nil); err != nil {
				t.Fatal(err)
			}
		}
		return whole, temporary
	}
	if whole, temporary := send(hs[:1]); whole != 0 || temporary != 1 {
		t.Errorf("for one chunk: %d whole, %d temporary", whole, temporary)
	}
	missing, err := away.Missing(append(hs, hs...))
	if err != nil || len(missing) != len(hs)-1 {
		t.Fatalf("%d missing, %v", len(missing), err)
	}
	if whole, temporary := send(missing); whole < 2 || temporary != 1 {
		t.Errorf("for the rest: %d whole, %d temporary", whole, temporary)
	}
	for i, h := range hs {
		got, err := away.Get(h)
		if err != nil || !bytes.Equal(got, data[i]) {
			t.Errorf("chunk %d: %v", i, err)
		}
	}
	left, err := os.ReadDir(home.IncomingDir())
	if err != nil || len(left) > 0 {
		t.Errorf("left in incoming: %v, %v", left, err)
	}
	if _, cleanup, err := home.PacksFor([]replication.Hash{{1}}); !errors.Is(err, replication.ErrNotFound) {
		t.Error(err)
	} else {
		cleanup()
	}
}

func TestBadPacksAreRefused(t *testing.T) {
	home, away := open(t, t.TempDir(), Options{}), open(t, t.TempDir(), Options{})
	chunk := noise(1, 50_000)
	p := put(t, home, chunk, []byte("second"))[0]
	tests := map[string]struct {
		change func([]byte) []byte
		want   error
	}{
		"truncated":      {func(b []byte) []byte { return b[:len(b)-1] }, replication.ErrTruncated},
		"half":           {func(b []byte) []byte { return b[:len(b)/2] }, replication.ErrTruncated},
		"empty":          {func([]byte) []byte { return nil }, replication.ErrTruncated},
		"content":        {func(b []byte) []byte { b[1000] ^= 1; return b }, replication.ErrBadHash},
		"index":          {func(b []byte) []byte { b[len(b)-packTrailer-5] ^= 1; return b }, replication.ErrBadHash},
		"other magic":    {func(b []byte) []byte { b[0] = 'X'; return b }, replication.ErrFormat},
		"other version":  {func(b []byte) []byte { b[4] = 9; return b }, replication.ErrFormat},
		"longer":         {func(b []byte) []byte { return append(b, 0) }, replication.ErrTruncated},
		"another's pack": {func([]byte) []byte { return packOf(nil, nil) }, replication.ErrBadHash},
		"a swapped byte of a chunk that is compressed or not": {func(b []byte) []byte { b[packHeader] ^= 0x80; return b }, replication.ErrBadHash},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := receive(t, away, p, tt.change); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if away.Has(hashOf(chunk)) {
				t.Error("it is in the store")
			}
		})
	}
	// The index's hash is right and a chunk's is not.
	liar := []packChunk{{hash: hashOf([]byte("truth")), begin: packHeader, stored: 3, raw: 3}}
	lie := packOf([]byte("lie"), liar)
	_, name := packTail(liar, packHeader+3)
	path := filepath.Join(away.IncomingDir(), "lie")
	if err := os.WriteFile(path, lie, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := away.AcceptPack(path, name); !errors.Is(err, replication.ErrBadHash) {
		t.Errorf("a pack that lies: %v", err)
	}
	if err := receive(t, away, p, nil); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, away, p, nil); err != nil {
		t.Fatalf("again: %v", err)
	}
}

// packOf is a pack of these bytes, whatever its index says of them.
func packOf(stored []byte, index []packChunk) []byte {
	tail, _ := packTail(index, packHeader+int64(len(stored)))
	return append(append(packHead(), stored...), tail...)
}

// TestPackOfVersion1: a pack that an earlier version made is called by the hash of the
// whole file; it can be read, and sent as it is.
func TestPackOfVersion1(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	b := packOf([]byte("old"), []packChunk{{hash: hashOf([]byte("old")), begin: packHeader, stored: 3, raw: 3}})
	b[4] = 1
	path := filepath.Join(s.IncomingDir(), "old")
	for _, wrong := range []replication.Hash{{1}, replication.Hash(b[len(b)-packTrailer+16:])} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.AcceptPack(path, wrong); !errors.Is(err, replication.ErrBadHash) {
			t.Errorf("under another name: %v", err)
		}
	}
	if err := s.AcceptPack(path, hashOf(b)); err != nil {
		t.Fatal(err)
	}
	packs, cleanup, err := s.PacksFor([]replication.Hash{hashOf([]byte("old"))})
	defer cleanup()
	if err != nil || len(packs) != 1 || packs[0].Hash != hashOf(b) {
		t.Errorf("it is sent as %+v, %v", packs, err)
	}
}

func TestAcceptRefusesOpenFilesAndLinks(t *testing.T) {
	home, away := open(t, t.TempDir(), Options{}), open(t, t.TempDir(), Options{})
	p := put(t, home, []byte("x"))[0]
	b, err := os.ReadFile(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(away.IncomingDir(), "p")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := away.AcceptPack(path, p.Hash); err == nil {
		t.Error("accepted while it is open for writing")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(away.IncomingDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := away.AcceptPack(link, p.Hash); err == nil {
		t.Error("accepted through a symlink")
	}
	if err := away.AcceptPack(path, p.Hash); err != nil {
		t.Error(err)
	}
}

// A damaged pack is found by reading, and replaced when it is sent again.
func TestDamageIsFoundAndMended(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data := noise(7, 100_000)
	p := put(t, s, data)[0]
	b, err := os.ReadFile(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(b)
	bad[5000] ^= 1
	if err := os.Chmod(p.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.Path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(hashOf(data)); !errors.Is(err, replication.ErrBadHash) {
		t.Fatalf("damage not found: %v", err)
	}
	path := filepath.Join(s.IncomingDir(), "again")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.AcceptPack(path, p.Hash); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(hashOf(data)); err != nil || !bytes.Equal(got, data) {
		t.Fatal(err)
	}
}

// What another process adds and removes is noticed.
func TestTwoProcesses(t *testing.T) {
	root := t.TempDir()
	agent, recv := open(t, root, Options{}), open(t, root, Options{})
	for i := range uint64(20) {
		d := noise(i, 1000)
		if agent.Has(hashOf(d)) {
			t.Fatal("not yet")
		}
		p := put(t, recv, d)[0]
		if !agent.Has(hashOf(d)) {
			t.Fatalf("pack %d was not noticed", i)
		}
		if i%2 == 0 {
			if err := os.Remove(p.Path); err != nil {
				t.Fatal(err)
			}
			if agent.Has(hashOf(d)) {
				t.Fatalf("pack %d is gone, and that was not noticed", i)
			}
		}
	}
}

func TestAbort(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	w := s.NewPack()
	if err := w.Put(hashOf([]byte("x")), []byte("x"), nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Put(hashOf([]byte("y")), []byte("z"), nil, 0); !errors.Is(err, replication.ErrBadHash) {
		t.Errorf("a chunk under another's name: %v", err)
	}
	w.Abort()
	if err := w.Put(hashOf([]byte("y")), []byte("y"), nil, 0); err == nil {
		t.Error("written after Abort")
	}
	left, err := os.ReadDir(s.IncomingDir())
	if err != nil || len(left) > 0 || s.Has(hashOf([]byte("x"))) {
		t.Errorf("left: %v, %v", left, err)
	}
}

// clock is Options.Now for tests.
type clock struct{ ahead time.Duration }

func (c *clock) now() time.Time { return time.Now().Add(c.ahead) }

func (c *clock) steady() (string, time.Duration) { return "test", c.ahead }
