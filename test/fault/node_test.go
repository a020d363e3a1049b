package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/engine"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/wire"
)

const svc = "registry"

// node is a node's directory: its store, and its one volume.
type node struct {
	dir  string
	disk *disk // that dir is on; nil: one that nothing happens to

	ahead int // packs that it has sent ahead of their generations
}

func newNode(t testing.TB, dir string) *node {
	t.Helper()
	n := &node{dir: dir}
	must(t, os.MkdirAll(n.tree(), 0o755))
	must(t, os.MkdirAll(n.root(), 0o755))
	must(t, n.withEngine(nil, func(*engine.Engine) error { return nil })) // makes the store
	return n
}

func (n *node) root() string             { return filepath.Join(n.dir, "store") }
func (n *node) tree() string             { return filepath.Join(n.dir, "volumes", "data", "_data") }
func (n *node) roots() map[string]string { return map[string]string{"data": n.tree()} }

// withEngine runs f with the node's engine, as an agent that starts and stops again.
func (n *node) withEngine(hook durable.Hook, f func(*engine.Engine) error) error {
	e, err := engine.Open(engine.Options{Root: n.root(), Service: svc, LeastFree: -1, Logger: slog.New(slog.DiscardHandler), Hook: hook, Retention: store.Floor})
	if err != nil {
		return err
	}
	return errors.Join(f(e), e.Close())
}

// apply is the standby's part.
func (n *node) apply(e *engine.Engine) error { return e.Apply(context.Background(), n.roots()) }

// seal is the active's first part.
func (n *node) seal(e *engine.Engine, term uint64, f replication.Freezer, packed func()) (replication.SealResult, error) {
	if err := e.Fence(term); err != nil {
		return replication.SealResult{}, err
	}
	return e.Seal(context.Background(), replication.SealRequest{Term: term, Roots: n.roots(), Definition: []byte("definition"), Freezer: f, Packed: packed})
}

// ship is the active's second part.
func (n *node) ship(e *engine.Engine, o wire.ClientOptions) error {
	return connected(o, func(c *wire.Client) error {
		return n.sendAll(e, c)
	})
}

// cycle is both parts, as the agent has them go on at once: over one connection goes what is packed of
// the generation that is being made, then that. Its result is the seal's, whatever became of the rest.
func (n *node) cycle(e *engine.Engine, term uint64, f replication.Freezer, o wire.ClientOptions) (r replication.SealResult, err error) {
	sealed := false
	err = connected(o, func(c *wire.Client) (err error) {
		var ahead error
		// The agent does not have the seal wait for it. Here it does, so that each step has its time.
		r, err = n.seal(e, term, f, func() { ahead = errors.Join(ahead, n.send(e, c)) })
		if sealed = true; err != nil {
			return err
		}
		return errors.Join(ahead, n.sendAll(e, c))
	})
	if !sealed { // for that nobody is needed
		var serr error
		r, serr = n.seal(e, term, f, nil)
		err = errors.Join(serr, err)
	}
	return r, err
}

// send is what the agent does over its connection whenever there is something new (see Ship in agent/peers.go).
func (n *node) send(e *engine.Engine, c *wire.Client) error {
	sh := wire.NewShipper(wire.ShipperOptions{Source: e.Store(), Mend: true})
	if _, err := sh.Ship(context.Background(), c); err != nil {
		return err
	}
	r, err := sh.Ahead(context.Background(), c, e.Ahead())
	n.ahead += r.Packs
	return err
}

func (n *node) sendAll(e *engine.Engine, c *wire.Client) error {
	if err := n.send(e, c); err != nil {
		return err
	}
	return sendImage(e, c)
}

func connected(o wire.ClientOptions, f func(*wire.Client) error) error {
	c, err := wire.Dial(context.Background(), o)
	if err != nil {
		return err
	}
	return errors.Join(f(c), c.Close())
}

// sendImage sends what stands for an image archive: nobody here looks into it. Each generation
// has another.
func sendImage(e *engine.Engine, c *wire.Client) error {
	head, err := e.Head()
	if err != nil {
		return err
	}
	b := imageOf(head)
	path := filepath.Join(e.Store().IncomingDir(), "exported")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return err
	}
	return errors.Join(c.PutImage(context.Background(), svc, wire.File{Path: path, Hash: blake3.Sum256(b), Size: int64(len(b))}, nil), os.Remove(path))
}

func imageOf(id replication.ID) []byte { return noise(int(id.Term<<12+id.Seq), 20<<10) }

// images are whole, as many as there are; and away with them, as with those that an agent has loaded.
func (n *node) images(t testing.TB) (got []replication.Hash) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(n.root(), "services", svc, "images", "*"))
	must(t, err)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		must(t, err)
		sum := replication.Hash(blake3.Sum256(b))
		if filepath.Base(path) != sum.String()+".image" {
			t.Fatalf("%s has %d bytes that are %s", path, len(b), sum)
		}
		got = append(got, sum)
		must(t, os.Remove(path))
	}
	return got
}

// serving are the options of the node's `receive`.
func (n *node) serving(hook durable.Hook) wire.ServerOptions {
	return wire.ServerOptions{
		MinFree: -1, Hook: hook,
		Open: func(service string) (wire.Store, error) {
			if _, err := os.Stat(filepath.Join(n.root(), "services", service)); errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("%w: %s", wire.ErrNoService, service)
			}
			return store.Open(n.root(), service, store.Options{Hook: hook})
		},
	}
}

// withStore runs f with the node's store.
func (n *node) withStore(t testing.TB, f func(*store.Store)) {
	t.Helper()
	s, err := store.Open(n.root(), svc, store.Options{})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	f(s)
}

func (n *node) head(t testing.TB) (id replication.ID) {
	t.Helper()
	n.withStore(t, func(s *store.Store) {
		var err error
		id, err = s.Head()
		must(t, err)
	})
	return id
}

// unfrozen is the freezer of containers that do not write by themselves.
type unfrozen struct{}

func (unfrozen) Freeze(context.Context) (func() error, error) {
	return func() error { return nil }, nil
}
