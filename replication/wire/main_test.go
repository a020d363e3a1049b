package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// receiveEnv makes the test binary a receiver: it is the forced command of the
// sshd that tests start.
const receiveEnv = "UNDERSTUDY_TEST_RECEIVE"

// stallEnv is that receiver's StallTimeout.
const stallEnv = "UNDERSTUDY_TEST_STALL"

func TestMain(m *testing.M) {
	root := os.Getenv(receiveEnv)
	if root == "" {
		os.Exit(m.Run())
	}
	o := serverOptions(root)
	o.StallTimeout, _ = time.ParseDuration(os.Getenv(stallEnv)) // none: the default
	o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := CheckCommand(os.Getenv("SSH_ORIGINAL_COMMAND")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := Serve(context.Background(), stdio{os.Stdin, os.Stdout}, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

type stdio struct {
	io.Reader
	io.WriteCloser
}

const svc = "registry"

func serverOptions(root string) ServerOptions {
	return ServerOptions{
		MinFree: -1,
		Open: func(service string) (Store, error) {
			if _, err := os.Stat(filepath.Join(root, "services", service)); err != nil {
				return nil, fmt.Errorf("%w: %s", ErrNoService, service)
			}
			return store.Open(root, service, store.Options{})
		},
		Services: func() ([]string, error) { return []string{svc}, nil },
	}
}

// openStore opens the service's store below root, making it.
func openStore(t testing.TB, root string) *store.Store {
	t.Helper()
	s, err := store.Open(root, svc, store.Options{PackSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func id(term, seq uint64) replication.ID { return replication.ID{Term: term, Seq: seq} }

func noise(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

func hashOf(b []byte) replication.Hash { return blake3.Sum256(b) }

// manifest is a generation with one file per data.
func manifest(at, parent replication.ID, data ...[]byte) *replication.Manifest {
	es := replication.NewEntries(&replication.Entry{Path: ".", Type: replication.TypeDir, Mode: 0o755})
	for i, d := range data {
		e := &replication.Entry{Path: fmt.Sprintf("f%04d", i), Type: replication.TypeFile, Mode: 0o644, Size: int64(len(d))}
		for off := 0; off < len(d); off += replication.ChunkSize {
			c := d[off:min(len(d), off+replication.ChunkSize)]
			e.Chunks = append(e.Chunks, replication.Chunk{Offset: int64(off), Length: int64(len(c)), Hash: hashOf(c)})
		}
		es.Set(e)
	}
	return &replication.Manifest{
		Format: replication.FormatVersion, Service: svc, ID: at, Parent: parent,
		CapturedAt: time.Unix(1700000000, 0).UTC(), Volumes: []replication.Volume{{Name: "data", Entries: es}},
	}
}

// seal puts data into s and commits it as generation at.
func seal(t testing.TB, s *store.Store, at, parent replication.ID, data ...[]byte) {
	t.Helper()
	w := s.NewPack()
	defer w.Abort()
	for _, d := range data {
		for off := 0; off < len(d); off += replication.ChunkSize {
			c := d[off:min(len(d), off+replication.ChunkSize)]
			if err := w.Put(hashOf(c), c, nil, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := w.Seal(); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(manifest(at, parent, data...)); err != nil {
		t.Fatal(err)
	}
}

// receiver is a standby: its store, and a way to connect to it.
type receiver struct {
	root string
	s    *store.Store
	dial func(t testing.TB) *Client
	log  *syncBuffer // what the receiver logged
}

// pipeReceiver serves over net.Pipe.
func pipeReceiver(t testing.TB, tune ...func(*ServerOptions)) *receiver {
	t.Helper()
	r := &receiver{root: t.TempDir(), log: &syncBuffer{}}
	r.s = openStore(t, r.root)
	r.dial = func(t testing.TB) *Client {
		t.Helper()
		c, err := NewClient(t.Context(), r.pipe(t, tune...), ClientOptions{Name: "n2"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	return r
}

// pipe starts a server and gives the sender's end.
func (r *receiver) pipe(t testing.TB, tune ...func(*ServerOptions)) net.Conn {
	t.Helper()
	o := serverOptions(r.root)
	o.Logger = slog.New(slog.NewTextHandler(r.log, nil))
	for _, f := range tune {
		f(&o)
	}
	ours, theirs := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { _ = Serve(context.Background(), theirs, o) })
	t.Cleanup(func() { _ = ours.Close(); wg.Wait() })
	return ours
}

// committed is everything in the receiver's store but incoming: path → content.
func (r *receiver) committed(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(r.root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == "incoming" {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			b, err := os.ReadFile(p)
			out[p] = string(b)
			return err
		}
		out[p] = d.Type().String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (r *receiver) unchanged(t testing.TB, before map[string]string) {
	t.Helper()
	if after := r.committed(t); !maps.Equal(before, after) {
		t.Errorf("the committed state changed:\nbefore %d files, after %d", len(before), len(after))
	}
}

// files writes b to a file and describes it.
func file(t testing.TB, b []byte) File {
	t.Helper()
	p := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return File{Path: p, Hash: hashOf(b), Size: int64(len(b))}
}

// onePack makes a pack that holds data, as another node would send it.
func onePack(t testing.TB, data ...[]byte) (File, []byte) {
	t.Helper()
	s, err := store.Open(t.TempDir(), svc, store.Options{PackSize: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := s.NewPack()
	for _, d := range data {
		if err := w.Put(hashOf(d), d, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	ps, err := w.Seal()
	if err != nil || len(ps) != 1 {
		t.Fatal(len(ps), err)
	}
	b, err := os.ReadFile(ps[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	f := file(t, b)
	f.Hash = ps[0].Hash
	return f, b
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *syncBuffer) has(words string) bool { return strings.Contains(s.String(), words) }

func isBusy(err error) bool { return errors.Is(err, ErrBusy) }

type hash = replication.Hash
