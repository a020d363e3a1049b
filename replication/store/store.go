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
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// Options of a store. The zero value is good.
type Options struct {
	Logger    *slog.Logger                              // nil: discards
	Hook      durable.Hook                              // tests
	Now       func() time.Time                          // nil: time.Now
	Steady    func() (boot string, since time.Duration) // nil: the kernel's; see times.go
	PackGrace time.Duration                             // an unreferenced pack younger than this is not swept; 0: an hour
	Apart     bool                                      // blocks are never shared with live trees: see share.go; to measure what that saves
	PackSize  int64                                     // a PackWriter begins a new pack beyond this, bytes; 0: 64 MiB
	ManySmall int                                       // so many small packs are written anew together; 0: 256
	LeastFree int64                                     // of its file system, bytes: below it nothing is sealed; 0: LeastFree, negative: none
	Spare     int64                                     // and below this, history gives way; 0: a twentieth of the file system, at most 1 GiB
}

func (o *Options) defaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Steady == nil {
		o.Steady = steadyClock
	}
	if o.PackGrace == 0 {
		o.PackGrace = time.Hour
	}
	if o.LeastFree == 0 {
		o.LeastFree = LeastFree
	}
	if o.ManySmall == 0 {
		o.ManySmall = 256
	}
	if o.PackSize == 0 {
		o.PackSize = 64 << 20
	}
}

// Permissions: the group is shared by the agent and receive; setgid hands it on.
const (
	dirMode  = 0o770 | fs.ModeSetgid
	fileMode = 0o660
	sealMode = 0o440 // immutable
)

// Store is one service's store, safe for concurrent use by goroutines and by processes.
type Store struct {
	dir     string
	service string
	o       Options
	log     *slog.Logger
	codec   *codec
	index   *chunkIndex
	origins origins
	reading openPacks
	loaded  loaded
	checked atomic.Uint64 // what index.lost said when all of a generation was there
	lacking lacksCache
	unfit   sync.Map // packs, by hash, that Repack found damaged: not tried again
}

// Open opens <root>/services/<service>, making it where it is missing.
// A service name that could be a path is ErrBadPath.
func Open(root, service string, o Options) (*Store, error) {
	if err := ValidName("service", service); err != nil {
		return nil, err
	}
	o.defaults()
	dir := filepath.Join(root, "services", service)
	for _, d := range []string{
		filepath.Dir(dir), dir,
		filepath.Join(dir, "packs"), filepath.Join(dir, "generations"), filepath.Join(dir, "diverged"),
		filepath.Join(dir, "superseded"), filepath.Join(dir, "incoming"),
	} {
		if err := makeDir(d); err != nil {
			return nil, fmt.Errorf("store of service %s: %w", service, err)
		}
	}
	c, err := newCodec()
	if err != nil {
		return nil, err
	}
	log := o.Logger.With("service", service)
	return &Store{
		dir: dir, service: service, o: o, log: log, codec: c,
		index: &chunkIndex{dir: filepath.Join(dir, "packs"), log: log},
	}, nil
}

// makeDir makes one directory with the shared mode, whatever the umask; one
// that is there is left as it is.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Chmod(dir, dirMode)
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(dir))
	}
	return err
}

// Close releases what the store holds in memory. It must not be used after.
func (s *Store) Close() error {
	s.reading.close()
	s.codec.dec.Close()
	return s.codec.enc.Close()
}

// Dir is the store's directory.
func (s *Store) Dir() string { return s.dir }

// Service is the name the store was opened for.
func (s *Store) Service() string { return s.service }

// IncomingDir is where a sender's files are written before they are accepted;
// on the same file system as the rest.
func (s *Store) IncomingDir() string { return s.path("incoming") }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// locked runs f while no other process or goroutine changes head or term.
func (s *Store) locked(f func() error) error { return s.lockedAs("lock", f) }

// errLocked: somebody else holds the lock, and it was not to be waited for.
var errLocked = errors.New("locked by another")

// lockedAs runs f while nobody else holds the lock of that name.
func (s *Store) lockedAs(name string, f func() error) error { return s.flocked(name, unix.LOCK_EX, f) }

// tryLockedAs is lockedAs that does not wait. errLocked.
func (s *Store) tryLockedAs(name string, f func() error) error {
	return s.flocked(name, unix.LOCK_EX|unix.LOCK_NB, f)
}

func (s *Store) flocked(name string, how int, f func() error) (err error) {
	l, err := os.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := l.Close(); err == nil { // closing unlocks
			err = cerr
		}
	}()
	if fi, err := l.Stat(); err == nil && fi.Mode().Perm() != fileMode {
		_ = l.Chmod(fileMode) // the umask took bits away; the owner puts them back
	}
	for {
		if err = unix.Flock(int(l.Fd()), how); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errLocked
	}
	if err != nil {
		return fmt.Errorf("lock the store of service %s: %w", s.service, err)
	}
	return f()
}

// State is where the store stands, for senders and gossip.
func (s *Store) State() (replication.State, error) {
	st := replication.State{Service: s.service}
	var err error
	if st.Term, err = s.Term(); err != nil {
		return st, err
	}
	if st.Head, err = s.Head(); err != nil {
		return st, err
	}
	if !st.Head.IsZero() {
		sum, err := s.headSum(st.Head)
		if err != nil {
			return st, err
		}
		st.HeadSum = sum.String()
	}
	lacks, err := s.Lacks()
	if err != nil {
		return st, err
	}
	if !lacks.None() {
		st.Lacks = &replication.Lacks{Chunks: lacks.Chunks[:min(len(lacks.Chunks), maxLacks)], Generations: lacks.Generations}
	}
	h, err := s.have()
	st.Images, st.Layers = h.Images, h.Layers
	return st, err
}

// headSum is of the head's volumes.
func (s *Store) headSum(head replication.ID) (replication.Hash, error) {
	path := s.manifestFile(head)
	if m := s.loaded.get(path); m != nil {
		return m.Sum(), nil
	}
	h, err := s.readHeader(path)
	if err == nil {
		return h.Sum, nil
	}
	// It was damaged. What it was is known, and must be, or nobody could send it again.
	known, _, serr := s.stamps()
	if t, ok := known[generationName(head)]; ok && serr == nil && t.sum != (replication.Hash{}) {
		return t.sum, nil
	}
	return replication.Hash{}, err
}

// Term is the highest term known, 0 at first.
func (s *Store) Term() (uint64, error) {
	b, err := durable.ReadSummed(s.path("term"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, s.damaged(err)
	}
	t, err := parseTerm(b)
	return t, s.damaged(err)
}

func parseTerm(b []byte) (uint64, error) {
	text := string(b)
	t, err := strconv.ParseUint(text, 10, 64)
	if err != nil || strconv.FormatUint(t, 10) != text {
		return 0, fmt.Errorf("%w: the store's term is %.40q, not a number", replication.ErrFormat, b)
	}
	return t, nil
}

// Fence raises the highest term known, durably. A term at or below it changes nothing.
func (s *Store) Fence(term uint64) error {
	return s.locked(func() error { return s.fenceLocked(term) })
}

func (s *Store) fenceLocked(term uint64) error {
	known, err := s.Term()
	if err != nil || term <= known {
		return err
	}
	return durable.WriteSummed(s.path("term"), []byte(strconv.FormatUint(term, 10)), fileMode, s.o.Hook)
}

// Head is the generation committed last; zero: none.
func (s *Store) Head() (replication.ID, error) {
	b, err := durable.ReadSummed(s.path("head"))
	if errors.Is(err, fs.ErrNotExist) {
		return replication.ID{}, nil
	}
	if err != nil {
		return replication.ID{}, s.damaged(err)
	}
	id, err := parseHead(b)
	return id, s.damaged(err)
}

func parseHead(b []byte) (replication.ID, error) {
	text := string(b)
	id, err := replication.ParseID(text)
	if err != nil || text == "" {
		return replication.ID{}, fmt.Errorf("%w: the store's head is %.60q", replication.ErrFormat, b)
	}
	return id, nil
}

func (s *Store) setHeadLocked(id replication.ID) error {
	return durable.WriteSummed(s.path("head"), []byte(id.String()), fileMode, s.o.Hook)
}

// damaged says what to do where the store no longer knows where it is. That is never guessed:
// with a lower term a sender that was fenced off could write here again.
func (s *Store) damaged(err error) error {
	if !errors.Is(err, durable.ErrSum) && !errors.Is(err, replication.ErrFormat) {
		return err
	}
	return fmt.Errorf("%[1]w; once another node is active, stop understudy.service here, move services/%[2]s, live/%[2]s and state/%[2]s.json in the store's directory away and start it: the data here is archived, and what the other node has is sent anew", err, s.Service())
}

// have is what have.json holds.
type have struct {
	Images []string `json:"images"`
	Layers []string `json:"layers"`
}

// SetHave records the images and layers present on the node, for State.
func (s *Store) SetHave(images, layers []string) error {
	b, err := json.Marshal(have{Images: images, Layers: layers})
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(s.path("have.json")); err == nil && bytes.Equal(old, b) {
		return nil
	}
	return durable.WriteFile(s.path("have.json"), b, fileMode, s.o.Hook)
}

func (s *Store) have() (h have, err error) {
	b, err := os.ReadFile(s.path("have.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	return h, err
}

// DecodeState reads a peer's state. It is made for hostile bytes. ErrFormat, ErrBadPath.
func DecodeState(b []byte) (replication.State, error) {
	var st replication.State
	if len(b) > maxState {
		return st, fmt.Errorf("%w: a state of %d bytes", replication.ErrFormat, len(b))
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("%w: state: %w", replication.ErrFormat, err)
	}
	if err := ValidName("service", st.Service); err != nil {
		return st, err
	}
	if st.Head.IsZero() != (st.HeadSum == "") || len(st.HeadSum) > 2*hashLen {
		return st, fmt.Errorf("%w: state with head %s and sum %.70q", replication.ErrFormat, st.Head, st.HeadSum)
	}
	if st.Lacks != nil {
		if len(st.Lacks.Chunks) > maxLacks {
			return st, fmt.Errorf("%w: state that lacks %d chunks", replication.ErrFormat, len(st.Lacks.Chunks))
		}
		for _, text := range st.Lacks.Chunks {
			if _, err := ParseHash(text); err != nil {
				return st, err
			}
		}
	}
	return st, nil
}

// maxState: 64 Ki layers' names fit.
const maxState = 8 << 20

// readJSON reads one of the store's lists into to, which stays as it is where there is
// none. ErrFormat.
func (s *Store) readJSON(name string, to any) error {
	b, err := os.ReadFile(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, to); err != nil {
		return fmt.Errorf("%s: %w: %w", s.path(name), replication.ErrFormat, err)
	}
	return nil
}
