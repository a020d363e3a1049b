package apply

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// given is a store that gives out one manifest that nobody committed.
type given struct {
	*store.Store
	m *replication.Manifest
}

func (g given) Load(replication.ID) (*replication.Manifest, error) { return g.m, nil }

// smallFiles is a generation of n files of 2 to 10 kB, a thousand to a directory.
func smallFiles(b *testing.B, dir string, n int) given {
	b.Helper()
	s, err := store.Open(dir, "svc", store.Options{})
	treetest.Must(b, err)
	b.Cleanup(func() { treetest.Must(b, s.Close()) })
	w := s.NewPack()
	defer w.Abort()
	rng := rand.New(rand.NewPCG(1, 2))
	mtime := time.Now().Add(-time.Hour).UnixNano()
	es := replication.NewEntries(&replication.Entry{Path: ".", Type: replication.TypeDir, Mode: 0o755, MtimeNs: mtime})
	for i := range n {
		in := fmt.Sprintf("d%03d", i/1000)
		if i%1000 == 0 {
			es.Set(&replication.Entry{Path: in, Type: replication.TypeDir, Mode: 0o755, MtimeNs: mtime})
		}
		data := make([]byte, 2000+rng.IntN(8000))
		for at := 0; at+8 <= len(data); at += 16 { // half of it compresses
			binary.LittleEndian.PutUint64(data[at:], rng.Uint64())
		}
		h := replication.Hash(blake3.Sum256(data))
		treetest.Must(b, w.Put(h, data, nil, 0))
		es.Set(&replication.Entry{
			Path: fmt.Sprintf("%s/file%05d", in, i), Type: replication.TypeFile, Mode: 0o640, UID: 999, GID: 999, MtimeNs: mtime, Size: int64(len(data)),
			Chunks: []replication.Chunk{{Length: int64(len(data)), Hash: h}},
		})
	}
	_, err = w.Seal()
	treetest.Must(b, err)
	return given{s, &replication.Manifest{
		Format: replication.FormatVersion, Service: "svc", ID: replication.ID{Term: 1, Seq: 1},
		Volumes: []replication.Volume{{Name: "data", Entries: es}},
	}}
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	treetest.Must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkNewSmallFiles brings small files into an empty tree. Beside the time it says
// how much of the processors' it took, per file.
func BenchmarkNewSmallFiles(b *testing.B) {
	const files = 20_000
	for _, fs := range treetest.FileSystems {
		b.Run(fs, func(b *testing.B) {
			mnt := treetest.Mount(b, fs)
			g := smallFiles(b, mnt, files)
			live, state := filepath.Join(mnt, "live"), filepath.Join(mnt, "state")
			var used time.Duration
			for b.Loop() {
				b.StopTimer()
				treetest.Must(b, os.RemoveAll(live))
				treetest.Must(b, os.RemoveAll(state))
				treetest.Must(b, os.Mkdir(live, 0o755))
				a, err := New(state, g, Options{})
				treetest.Must(b, err)
				unix.Sync()
				begun := cpu(b)
				b.StartTimer()
				_, err = a.Apply(b.Context(), g.m.ID, map[string]string{"data": live})
				treetest.Must(b, err)
				used += cpu(b) - begun
			}
			b.ReportMetric(float64(used.Microseconds())/float64(b.N)/files, "cpu-µs/file")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/files, "wall-µs/file")
		})
	}
}
