package wire

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// TestMend: what a peer's disk forgot, content of its history and a manifest that
// others hang on, is sent again though nothing new is to be sent; and over a wire
// that reads nothing back.
func TestMend(t *testing.T) {
	src := openStore(t, t.TempDir())
	r := pipeReceiver(t)
	sh := NewShipper(ShipperOptions{Source: src, Mend: true})
	parent := id(0, 0)
	for seq := uint64(1); seq <= 4; seq++ {
		seal(t, src, id(1, seq), parent, noise(seq, 3000), noise(seq+50, 3000))
		parent = id(1, seq)
		got, err := sh.Ship(t.Context(), r.dial(t))
		ok(t, err)
		if got.Mended != 0 {
			t.Errorf("got %+v", got)
		}
	}
	packs, _, err := r.s.Packs()
	ok(t, err)
	for _, h := range packs[:2] {
		damage(t, filepath.Join(r.s.Dir(), "packs", h.String()+".pack"))
		if err := r.s.CheckPack(h, func(int) error { return nil }); err == nil {
			t.Fatal("the damage is not seen")
		}
		_, _, _, err := r.s.SetAside(h)
		ok(t, err)
	}
	damage(t, filepath.Join(r.s.Dir(), "generations", "1.2.manifest"))
	_, err = r.s.SetAsideManifest(id(1, 2))
	ok(t, err)
	lacks, err := r.s.FindLacks()
	ok(t, err)
	if len(lacks.Chunks) == 0 || len(lacks.Generations) == 0 {
		t.Fatalf("lacks %+v", lacks)
	}
	if _, err := NewShipper(ShipperOptions{Source: src}).Ship(t.Context(), r.dial(t)); err != nil {
		t.Errorf("what is lost holds up what is new: %v", err)
	}
	got, err := sh.Ship(t.Context(), r.dial(t))
	ok(t, err)
	if got.Mended == 0 || got.Generations != 0 {
		t.Errorf("got %+v", got)
	}
	lacks, err = r.s.FindLacks()
	ok(t, err)
	if !lacks.None() {
		t.Errorf("still lacking %+v", lacks)
	}
	for seq := uint64(1); seq <= 4; seq++ {
		m, err := r.s.Load(id(1, seq))
		ok(t, err)
		for v := range m.Volumes[0].Entries.All() {
			for _, c := range v.Chunks {
				_, err := r.s.Get(c.Hash)
				ok(t, err)
			}
		}
	}
}

// TestMendOfWhatNobodyHas: what we have not got either is left out, and the rest is sent.
func TestMendOfWhatNobodyHas(t *testing.T) {
	src := openStore(t, t.TempDir())
	r := pipeReceiver(t)
	chain(t, src, 2)
	sh := NewShipper(ShipperOptions{Source: src})
	_, err := sh.Ship(t.Context(), r.dial(t))
	ok(t, err)
	lacks := &replication.Lacks{Chunks: []string{fmt.Sprintf("%064d", 7)}, Generations: []replication.ID{id(9, 9), id(1, 1)}}
	sent, err := sh.mend(t.Context(), r.dial(t), lacks)
	if err == nil || sent != 0 { // the peer has not lost 1.1 and says so
		t.Errorf("%d sent, %v", sent, err)
	}
	lacks.Chunks = []string{"no hash"}
	if _, err := sh.mend(t.Context(), r.dial(t), lacks); err == nil {
		t.Error("nonsense was taken for a hash")
	}
}

// TestRottenPackIsNamed: what our own disk forgot is refused by the peer, and the sender
// learns which of its packs that was.
func TestRottenPackIsNamed(t *testing.T) {
	src := openStore(t, t.TempDir())
	r := pipeReceiver(t)
	seal(t, src, id(1, 1), id(0, 0), noise(1, 3000))
	packs, _, err := src.Packs()
	ok(t, err)
	damage(t, filepath.Join(src.Dir(), "packs", packs[0].String()+".pack"))
	_, err = NewShipper(ShipperOptions{Source: src}).Ship(t.Context(), r.dial(t))
	var rotten *store.DamagedPack
	if !errors.As(err, &rotten) || rotten.Pack != packs[0] {
		t.Errorf("%v", err)
	}
}

func damage(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if os.IsPermission(err) {
		t.Skip("only root can write to what is sealed")
	}
	ok(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 40)
	ok(t, err)
	b[0] ^= 2
	_, err = f.WriteAt(b, 40)
	ok(t, err)
}
