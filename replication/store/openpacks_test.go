package store

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication"
)

func (o *openPacks) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.files)
}

func wantChunk(t *testing.T, s *Store, data []byte) {
	t.Helper()
	if got, err := s.Get(hashOf(data)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A damaged pack that is open is replaced by the other process: the good one is read.
func TestReplacedWhileOpen(t *testing.T) {
	root := t.TempDir()
	agent, recv := open(t, root, Options{}), open(t, root, Options{})
	one, two := noise(1, 50_000), noise(2, 50_000)
	p := put(t, agent, one, two)[0]
	good, err := os.ReadFile(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2+10_000] ^= 1
	if err := errors.Join(os.Remove(p.Path), os.WriteFile(p.Path, bad, 0o600)); err != nil {
		t.Fatal(err)
	}
	wantChunk(t, agent, one)
	if _, err := agent.Get(hashOf(two)); !errors.Is(err, replication.ErrBadHash) {
		t.Fatalf("the damage was not found: %v", err)
	}
	wantChunk(t, agent, one)
	if err := recv.AcceptPack(incoming(t, recv, good), p.Hash); err != nil {
		t.Fatal(err)
	}
	wantChunk(t, agent, two)
}

// A pack that another process sweeps can be read as long as it is open, and is then not found.
func TestSweptWhileOpen(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	data := noise(1, 5000)
	p := put(t, s, data)[0]
	wantChunk(t, s, data)
	if err := os.Remove(p.Path); err != nil {
		t.Fatal(err)
	}
	wantChunk(t, s, data)
	s.reading.forget()
	if _, err := s.Get(hashOf(data)); !errors.Is(err, replication.ErrNotFound) {
		t.Errorf("of a pack that is gone: %v", err)
	}
	again := put(t, s, data)[0]
	wantChunk(t, s, data)
	if again.Path != p.Path {
		t.Error("the same pack has another name")
	}
}

// However many packs are read, at once, a few are open, and none when nothing is read.
func TestFewPacksAreOpen(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	var all [][]byte
	for i := range uint64(openAtMost + 5) {
		all = append(all, noise(i, 3000))
		put(t, s, all[i])
	}
	var readers sync.WaitGroup
	for g := range 4 {
		readers.Go(func() {
			for i := range 300 {
				wantChunk(t, s, all[(i*(g+1))%len(all)])
			}
		})
	}
	readers.Wait()
	if n := s.reading.count(); n == 0 || n > openAtMost {
		t.Errorf("%d packs are open", n)
	}
	for s.reading.count() > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	wantChunk(t, s, all[0])
	if s.reading.count() != 1 {
		t.Error("it does not begin again")
	}
}
