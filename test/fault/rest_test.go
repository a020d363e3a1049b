package fault

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/engine"
)

// flipBit turns a bit of a file's byte; at < 0 counts from its end.
func flipBit(t testing.TB, path string, at int64) {
	t.Helper()
	if at < 0 {
		fi, err := os.Lstat(path)
		must(t, err)
		at += fi.Size()
	}
	must(t, flip(path, at))
}

// flip is for root, who may write to what is sealed.
func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	if _, err = f.ReadAt(b, at); err == nil {
		b[0] ^= 0x10
		_, err = f.WriteAt(b, at)
	}
	if err == nil {
		err = f.Sync() // it is the disk that has forgotten
	}
	return errors.Join(err, f.Close())
}

// rot flips a bit in a file's middle.
func rot(path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	return flip(path, fi.Size()/2)
}

// files lists a directory of a node's store.
func (n *node) files(t testing.TB, dir string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(n.root(), "services", svc, dir, "*"))
	must(t, err)
	return out
}

// TestBitFlippedInHalfAPack: what arrived of a pack before the line was cut rots until it is
// gone on with. That is seen when it is whole, and it is sent anew.
func TestBitFlippedInHalfAPack(t *testing.T) {
	p := plainPair(t)
	write(t, filepath.Join(p.n1.tree(), "long"), noise(9, 3*full)) // some writes of the wire's
	p.sealHome()
	const at = 5000
	half := p.halfSent(at)
	flipBit(t, half, at)
	p.check()
	must(t, p.shipped())
	p.check()
	p.heal()
}

// halfSent ships until the line is cut, and is where more than so many bytes of a pack then are.
func (p *pair) halfSent(bytes int64) (path string) {
	p.t.Helper()
	for range 20 { // what was sent when the line was cut may not have been written yet
		if _, met, err := p.over(fault{messages: never, bytes: 2 * full}, p.shipOver); !met || err == nil {
			p.t.Fatalf("the line was not cut: %v", err)
		}
		p.settled()
		half := p.n2.files(p.t, "incoming")
		if len(half) > 1 {
			p.t.Fatalf("half a pack was to be there, and not %q", half)
		}
		if len(half) == 1 {
			fi, err := os.Stat(half[0])
			must(p.t, err)
			if fi.Size() > bytes {
				return half[0]
			}
		}
	}
	p.t.Fatalf("not once were %d bytes of a pack there after the cut", bytes)
	return ""
}

// TestBitFlippedInAPack: one that is in the standby's store. Nothing of what cannot be
// verified comes into the tree. What is damaged counts as not there once it was found, and
// is sent again with the next generation.
func TestBitFlippedInAPack(t *testing.T) {
	for name, at := range map[string]int64{"content": 50_000, "index": -100} {
		t.Run(name, func(t *testing.T) {
			p := plainPair(t)
			before, was := p.n2.files(t, "packs"), list(t, p.n2.tree())
			p.step()
			p.sealHome()
			must(t, p.shipped())
			packs := slices.DeleteFunc(p.n2.files(t, "packs"), func(f string) bool { return slices.Contains(before, f) })
			if len(packs) != 1 {
				t.Fatalf("packs %q", packs)
			}
			flipBit(t, packs[0], at)
			err := p.n2.withEngine(nil, p.n2.apply)
			if !errors.Is(err, replication.ErrBadHash) && !errors.Is(err, replication.ErrNotFound) {
				t.Errorf("applied what does not verify: %v", err)
			}
			p.oldOrNew(was)
			p.step()
			p.sparing()
			p.check()
			p.heal()
		})
	}
}

// oldOrNew: each file of the standby is as it was, or as in what is sealed.
func (p *pair) oldOrNew(was listing) {
	p.t.Helper()
	now := list(p.t, p.n1.tree())
	for path, line := range list(p.t, p.n2.tree()) {
		fi, err := os.Lstat(filepath.Join(p.n2.tree(), path))
		must(p.t, err)
		if !fi.IsDir() && line != was[path] && line != now[path] {
			p.t.Errorf("%q is neither as it was nor as it is to be: %s", path, line)
		}
	}
}

// TestBitFlippedInTheReplica: in its files, where nobody has looked since. Whoever says so
// has it compared with what is committed, and only what differs is written.
func TestBitFlippedInTheReplica(t *testing.T) {
	p := plainPair(t)
	flipBit(t, filepath.Join(p.n2.tree(), "still"), 77_777)
	must(t, p.n2.withEngine(nil, func(e *engine.Engine) error { return e.Recheck() }))
	p.check()
	p.heal()
}

// TestBitFlippedInWhereItIs: in the store's own small files. Neither an earlier generation nor a
// lower term is believed; what only saves work is done without.
func TestBitFlippedInWhereItIs(t *testing.T) {
	for name, file := range map[string]string{
		"head": "store/services/" + svc + "/head", "term": "store/services/" + svc + "/term", "applied": "store/live/" + svc + "/applied",
	} {
		t.Run(name, func(t *testing.T) {
			p := plainPair(t)
			path := filepath.Join(p.n2.dir, file)
			whole, err := os.ReadFile(path)
			must(t, err)
			for at := range whole[:len(whole)-1] {
				flipBit(t, path, int64(at))
				err := p.n2.withEngine(nil, func(e *engine.Engine) error {
					_, err := e.Store().Term()
					if _, herr := e.Head(); err == nil {
						err = herr
					}
					if at := e.Applied(); err == nil && !at.IsZero() {
						t.Errorf("with %q the trees are said to be at %s", whole, at)
					}
					return err
				})
				if (name == "applied") == (err != nil) || err != nil && !strings.Contains(err.Error(), "move services/"+svc+", live/"+svc) {
					t.Errorf("byte %d of %q: %v", at, whole, err)
				}
				must(t, os.WriteFile(path, whole, 0o600))
			}
			p.step()
			p.sealHome()
			flipBit(t, path, 0)
			if err := p.shipped(); (name == "applied") == (err != nil) {
				t.Errorf("sent to a store that does not know where it is: %v", err)
			}
			if name != "applied" {
				must(t, os.WriteFile(path, whole, 0o600))
			}
			p.check()
			p.heal()
		})
	}
}
