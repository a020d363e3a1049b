package apply

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// extents are where a file has data, as the file system says: pairs of begin and end.
func extents(t testing.TB, path string) (out []int64) {
	t.Helper()
	f, err := os.Open(path)
	treetest.Must(t, err)
	defer f.Close()
	for at := int64(0); ; {
		begin, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return out
		}
		treetest.Must(t, err)
		at, err = unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE)
		treetest.Must(t, err)
		out = append(out, begin, at)
	}
}

// TestHolesStayHoles: a replica takes no more room than what it is of, also where a hole was
// punched into what was there.
func TestHolesStayHoles(t *testing.T) {
	const mib = 1 << 20
	for _, fs := range treetest.FileSystems {
		t.Run(fs, func(t *testing.T) {
			r := newRig(t, treetest.Mount(t, fs))
			data := make([]byte, mib)
			for i := range data {
				data[i] = byte(i%251 + 1)
			}
			names := []string{"small", "large", "nothing"}
			for i, size := range []int64{512 << 10, 48 * mib, 16 * mib} {
				f, err := os.Create(filepath.Join(r.src, names[i]))
				treetest.Must(t, err)
				treetest.Must(t, f.Truncate(size))
				if names[i] != "nothing" {
					for _, at := range []int64{64 << 10, size / 2} {
						_, err := f.WriteAt(data[:128<<10], at)
						treetest.Must(t, err)
					}
				}
				treetest.Must(t, f.Close())
			}
			same := func() {
				t.Helper()
				r.cycle(t)
				for _, name := range names {
					want, got := extents(t, filepath.Join(r.src, name)), extents(t, filepath.Join(r.dst, name))
					if sum(got) > sum(want) {
						t.Errorf("%s has data at %v, its replica at %v", name, want, got)
					}
				}
			}
			same()
			for _, name := range names[:2] {
				f, err := os.OpenFile(filepath.Join(r.src, name), os.O_RDWR, 0)
				treetest.Must(t, err)
				treetest.Must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 64<<10, 128<<10))
				treetest.Must(t, f.Close())
			}
			same()
		})
	}
}

// sum is how many bytes there are data for.
func sum(extents []int64) (n int64) {
	for i := 0; i < len(extents); i += 2 {
		n += extents[i+1] - extents[i]
	}
	return n
}
