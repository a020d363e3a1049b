package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// ManifestPath is the file of a committed generation in its encoded form, to be
// shipped. ErrNotFound.
func (s *Store) ManifestPath(id replication.ID) (string, error) {
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

// Load reads a committed generation. ErrNotFound.
func (s *Store) Load(id replication.ID) (*replication.Manifest, error) {
	path, err := s.ManifestPath(id)
	if err != nil {
		return nil, err
	}
	m, err := loadManifest(path)
	if err == nil && m.ID != id {
		err = fmt.Errorf("%s: %w: the manifest says it is %s", path, replication.ErrFormat, m.ID)
	}
	return m, err
}

func loadManifest(path string) (*replication.Manifest, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, replication.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	m, err := DecodeManifest(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
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
// It sets m.Diverged. Archiving the same content again returns the same name.
func (s *Store) Diverge(m *replication.Manifest) (name string, err error) {
	m.Diverged = true
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
	return loadManifest(s.divergedFile(name))
}
