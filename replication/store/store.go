// Package store keeps one service's generations on a node: packs of chunks,
// manifests, the highest term known, and which generation is the head. The
// active has one as well as every standby. Two processes share it: the agent
// (root) and `understudy receive` (user understudy), both members of the group
// that owns it; see replication/DESIGN.md for the layout and the rules.
//
// Everything under packs and generations is immutable and verified: what is
// there can be relied on after a kill at any step.
package store

import (
	"log/slog"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// Options of a store. The zero value is good.
type Options struct {
	Logger    *slog.Logger     // nil: discards
	Hook      durable.Hook     // tests
	Now       func() time.Time // nil: time.Now
	PackGrace time.Duration    // an unreferenced pack younger than this is not swept; 0: an hour
	PackSize  int64            // a PackWriter begins a new pack beyond this, bytes; 0: 256 MiB
}

// Store is one service's store, safe for concurrent use by goroutines and by processes.
type Store struct{}

// Open opens <root>/services/<service>, making it where it is missing.
// A service name that could be a path is ErrBadPath.
func Open(root, service string, o Options) (*Store, error) { panic("todo") }

// Close releases the pack files held open. The store must not be used after.
func (s *Store) Close() error { panic("todo") }

// Dir is the store's directory; Service its service.
func (s *Store) Dir() string { panic("todo") }

// Service is the name the store was opened for.
func (s *Store) Service() string { panic("todo") }

// IncomingDir is where a sender's files are written before they are accepted;
// on the same file system as the rest.
func (s *Store) IncomingDir() string { panic("todo") }

// State is where the store stands, for senders and gossip.
func (s *Store) State() (replication.State, error) { panic("todo") }

// Term is the highest term known, 0 at first.
func (s *Store) Term() (uint64, error) { panic("todo") }

// Fence raises the highest term known, durably. A term at or below it changes nothing.
func (s *Store) Fence(term uint64) error { panic("todo") }

// Head is the generation committed last; zero: none.
func (s *Store) Head() (replication.ID, error) { panic("todo") }

// SetHave records the images and layers present on the node, for State.
func (s *Store) SetHave(images, layers []string) error { panic("todo") }

// Has says whether the chunk is in a verified pack.
func (s *Store) Has(h replication.Hash) bool { panic("todo") }

// Missing returns those of hs that are not in the store, in order, each once.
func (s *Store) Missing(hs []replication.Hash) ([]replication.Hash, error) { panic("todo") }

// Get reads a chunk and verifies it. ErrNotFound, ErrBadHash.
func (s *Store) Get(h replication.Hash) ([]byte, error) { panic("todo") }

// PackWriter writes chunks into new packs. For one goroutine.
type PackWriter struct{}

// NewPack begins a pack in incoming. Seal or Abort it.
func (s *Store) NewPack() *PackWriter { panic("todo") }

// Has says whether the store or this writer has the chunk already.
func (w *PackWriter) Has(h replication.Hash) bool { panic("todo") }

// Put adds a chunk of 1..ChunkSize bytes whose hash is h; one that Has is skipped.
func (w *PackWriter) Put(h replication.Hash, data []byte) error { panic("todo") }

// Seal makes the packs durable in the store and lists them; none if nothing was Put.
func (w *PackWriter) Seal() ([]PackFile, error) { panic("todo") }

// Abort drops what is not sealed. After Seal it does nothing.
func (w *PackWriter) Abort() { panic("todo") }

// PackFile is a sealed pack.
type PackFile struct {
	Hash      replication.Hash // of the whole file; its name is Hash + ".pack"
	Path      string
	Size      int64
	Temporary bool // made for this shipment; gone after cleanup
}

// AcceptPack verifies the file at path (its whole hash, its index, every
// chunk's hash) and moves it, durably, into packs. A pack that is there already
// is a success. The file is consumed on success only. ErrBadHash, ErrTruncated, ErrFormat.
func (s *Store) AcceptPack(path string, want replication.Hash) error { panic("todo") }

// PacksFor lists packs that together hold the missing chunks: a pack of the
// store as it is where all its chunks are missing, and temporary packs for the
// rest. Call cleanup when they are shipped, also after an error (never nil).
func (s *Store) PacksFor(missing []replication.Hash) (packs []PackFile, cleanup func(), err error) {
	panic("todo")
}

// Commit seals m in the store: DESIGN.md's rules. All its chunks must be in
// packs. ErrStaleTerm, ErrWrongParent, ErrMissingChunks, ErrBadPath, ErrFormat.
// Committing the head again, with the same content, is a success.
func (s *Store) Commit(m *replication.Manifest) error { panic("todo") }

// CommitEncoded is Commit of an encoded manifest in the file at path, which must
// name id. The file is consumed on success only.
func (s *Store) CommitEncoded(path string, id replication.ID) error { panic("todo") }

// ManifestPath is the file of a committed generation in its encoded form, to be shipped.
func (s *Store) ManifestPath(id replication.ID) (string, error) { panic("todo") }

// Load reads a committed generation. ErrNotFound.
func (s *Store) Load(id replication.ID) (*replication.Manifest, error) { panic("todo") }

// Generations lists what is committed, oldest first; the head is the last.
func (s *Store) Generations() ([]replication.ID, error) { panic("todo") }

// Diverged is an archived diverged generation.
type Diverged struct {
	Name string // "<term.seq>.<n>"
	ID   replication.ID
	At   time.Time // when it was archived, this node's clock
}

// Diverge archives m, whose chunks must be in packs, and returns its name.
// It sets m.Diverged. Archiving the same content again returns the same name.
func (s *Store) Diverge(m *replication.Manifest) (string, error) { panic("todo") }

// Diverged lists the archive, oldest first.
func (s *Store) Diverged() ([]Diverged, error) { panic("todo") }

// LoadDiverged reads one by its name.
func (s *Store) LoadDiverged(name string) (*replication.Manifest, error) { panic("todo") }

// Reset sets the head back to a committed generation, or to none, on a former
// active's return. Generations beyond it are moved aside (superseded), not
// deleted. It never touches the term. Local only: nothing on the wire reaches it.
func (s *Store) Reset(to replication.ID) error { panic("todo") }

// Policy is a receiver's retention. Head, applied generations and diverged ones are always kept.
type Policy struct {
	KeepLast int              // at least this many generations, the head included; 0 means 2
	MinAge   time.Duration    // and all younger than this, by this node's clock since the commit
	Applied  []replication.ID // what live trees are at, or are being brought to
}

// Pruned is what a Prune removed.
type Pruned struct {
	Generations, Packs int
	Bytes              int64
}

// Prune applies the policy, removes unreferenced packs older than the grace
// period, and sweeps incoming files older than a day.
func (s *Store) Prune(p Policy) (Pruned, error) { panic("todo") }
