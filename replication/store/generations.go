package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// committedFile is the manifest of a committed generation. ErrNotFound.
func (s *Store) committedFile(id replication.ID) (string, error) {
	head, err := s.Head()
	if err != nil {
		return "", err
	}
	path := s.manifestFile(id)
	_, err = os.Lstat(path)
	// Beyond the head lies what was never acknowledged.
	if id.IsZero() || id.Compare(head) > 0 || errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("generation %s: %w in the store of service %s", id, replication.ErrNotFound, s.service)
	}
	return path, err
}

// Load gives a committed generation with its volumes. Near a generation that was loaded
// or committed before, it costs what lies between. It is shared: read only. ErrNotFound.
func (s *Store) Load(id replication.ID) (*replication.Manifest, error) {
	path, err := s.committedFile(id)
	if err != nil {
		return nil, err
	}
	return s.load(path, id)
}

// load is loadNear what is at hand.
func (s *Store) load(path string, id replication.ID) (*replication.Manifest, error) {
	return s.loadNear(&s.loaded, path, id)
}

// maxDeltas is how many deltas a generation may be away from a whole manifest:
// beyond any policy that keeps each of a day's.
const maxDeltas = 1 << 17

// loadNear goes back from delta to delta until it finds a whole manifest or one that is
// loaded already, and from there forward again.
func (s *Store) loadNear(near *loaded, path string, id replication.ID) (*replication.Manifest, error) {
	type delta struct {
		m    *replication.Manifest
		sum  replication.Hash
		path string
	}
	var deltas []delta
	var m *replication.Manifest
	var stat fs.FileInfo // of what was read from path
	for at, file := id, path; m == nil; {
		if m = near.get(file); m != nil {
			break
		}
		b, fi, err := readWithStat(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w", file, replication.ErrNotFound)
		}
		if err != nil {
			return nil, err
		}
		if file == path {
			stat = fi
		}
		got, sum, err := decode(b)
		if err == nil && got.ID != at {
			err = fmt.Errorf("%w: the manifest says it is %s", replication.ErrFormat, got.ID)
		}
		if err == nil && got.Delta == nil {
			err = checkSum(got, sum)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if got.Delta == nil {
			m = got
			near.keep(file, fi, m)
			break
		}
		if len(deltas) == maxDeltas {
			return nil, fmt.Errorf("%s: %w: more than %d deltas in a row", path, replication.ErrFormat, maxDeltas)
		}
		deltas = append(deltas, delta{got, sum, file})
		at, file = got.Delta.Base, s.manifestFile(got.Delta.Base)
	}
	for _, d := range slices.Backward(deltas) {
		err := resolve(d.m, m)
		if err == nil {
			err = checkSum(d.m, d.sum)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.path, err)
		}
		m = d.m
	}
	if len(deltas) > 0 {
		near.keep(path, stat, m)
	}
	return m, nil
}

// readWithStat reads a file, and says which one it was: another may be put in its place meanwhile.
func readWithStat(path string) (b []byte, fi fs.FileInfo, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if fi, err = f.Stat(); err != nil {
		return nil, nil, err
	}
	b = make([]byte, fi.Size())
	_, err = io.ReadFull(f, b)
	return b, fi, err
}

// loaded are the manifests at hand: the newest, and the one before it, which an
// apply comes from. A file is known by its stat, as another process may put
// another in its place.
type loaded struct {
	mu   sync.Mutex   // guards kept
	kept []loadedFile // the last one used is last
}

type loadedFile struct {
	path string
	stat fs.FileInfo
	m    *replication.Manifest
}

const maxLoaded = 2

func (l *loaded) get(path string) *replication.Manifest {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.kept {
		if f.path != path {
			continue
		}
		if fi, err := os.Lstat(path); err == nil && os.SameFile(fi, f.stat) && fi.ModTime().Equal(f.stat.ModTime()) && fi.Size() == f.stat.Size() {
			return f.m
		}
	}
	return nil
}

// remembered is what was loaded from path, whatever is there now.
func (l *loaded) remembered(path string) *replication.Manifest {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.kept {
		if f.path == path {
			return f.m
		}
	}
	return nil
}

func (l *loaded) clone() *loaded {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &loaded{kept: slices.Clone(l.kept)}
}

// keep is for what was read from, or written to, the file of that stat.
func (l *loaded) keep(path string, fi fs.FileInfo, m *replication.Manifest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = slices.DeleteFunc(l.kept, func(f loadedFile) bool { return f.path == path })
	if len(l.kept) == maxLoaded {
		l.kept = slices.Delete(l.kept, 0, 1)
	}
	l.kept = append(l.kept, loadedFile{path, fi, m})
}

// Generations lists what is committed, oldest first; the head is the last.
func (s *Store) Generations() ([]replication.ID, error) {
	head, err := s.Head()
	if err != nil {
		return nil, err
	}
	ids, err := s.manifestIDs()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(ids, func(id replication.ID) bool { return id.Compare(head) > 0 }), nil
}

// manifestIDs lists all manifests in generations, sorted, whatever the head.
func (s *Store) manifestIDs() ([]replication.ID, error) {
	entries, err := os.ReadDir(s.path("generations"))
	if err != nil {
		return nil, err
	}
	var ids []replication.ID
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), manifestSuffix)
		id, err := replication.ParseID(text)
		if ok && err == nil && !id.IsZero() {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, replication.ID.Compare)
	return ids, nil
}

// Diverged is an archived diverged generation.
type Diverged struct {
	Name string // "<term.seq>.<n>"
	ID   replication.ID
	At   time.Time // when it was archived, this node's clock
}

// Diverge archives m, whose chunks must be in packs, and returns its name.
// It sets m.Diverged, and is kept whole: what it came from may go. Archiving the same content again returns the same name.
func (s *Store) Diverge(m *replication.Manifest) (name string, err error) {
	m.Diverged, m.Delta = true, nil
	b, err := EncodeManifest(m)
	if err != nil {
		return "", err
	}
	if m.Service != s.service {
		return "", fmt.Errorf("diverged generation %s: %w: it is of service %s, this is the store of %s", m.ID, replication.ErrFormat, m.Service, s.service)
	}
	err = s.locked(func() error {
		if err := s.checkChunks(m); err != nil {
			return err
		}
		for n := 1; ; n++ {
			name = fmt.Sprintf("%s.%d", m.ID, n)
			old, err := os.ReadFile(s.divergedFile(name))
			if errors.Is(err, fs.ErrNotExist) {
				return durable.WriteFile(s.divergedFile(name), b, sealMode, s.o.Hook)
			}
			if err != nil || bytes.Equal(old, b) {
				return err
			}
		}
	})
	return name, err
}

func (s *Store) divergedFile(name string) string { return s.path("diverged", name+manifestSuffix) }

// Diverged lists the archive, oldest generation first.
func (s *Store) Diverged() ([]Diverged, error) {
	entries, err := os.ReadDir(s.path("diverged"))
	if err != nil {
		return nil, err
	}
	var ds []Diverged
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), manifestSuffix)
		id, err := parseDiverged(name)
		if !ok || err != nil {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return nil, err
		}
		ds = append(ds, Diverged{Name: name, ID: id, At: fi.ModTime()})
	}
	slices.SortFunc(ds, func(a, b Diverged) int {
		if c := a.ID.Compare(b.ID); c != 0 {
			return c
		}
		return a.At.Compare(b.At)
	})
	return ds, nil
}

// parseDiverged reads "<term.seq>.<n>".
func parseDiverged(name string) (replication.ID, error) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return replication.ID{}, fmt.Errorf("%w: %.60q is not a diverged generation; such as 3.17.1", replication.ErrFormat, name)
	}
	id, err := replication.ParseID(name[:i])
	n, err2 := strconv.ParseUint(name[i+1:], 10, 32)
	if err != nil || err2 != nil || id.IsZero() || fmt.Sprintf("%s.%d", id, n) != name {
		return replication.ID{}, fmt.Errorf("%w: %.60q is not a diverged generation; such as 3.17.1", replication.ErrFormat, name)
	}
	return id, nil
}

// LoadDiverged reads one by its name. ErrNotFound.
func (s *Store) LoadDiverged(name string) (*replication.Manifest, error) {
	if _, err := parseDiverged(name); err != nil {
		return nil, err
	}
	path := s.divergedFile(name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, replication.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	m, err := DecodeManifest(b, func(*replication.Delta) (*replication.Manifest, error) {
		return nil, fmt.Errorf("%w: a diverged generation is kept whole", replication.ErrFormat)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
