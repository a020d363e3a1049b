package apply

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication/tree/treetest"
)

// Access control lists arrive, stay when other metadata changes, and are what they should be to
// whoever checks, also where the standby's file system has another way to keep them.
func TestACLsFromOneFileSystemToAnother(t *testing.T) {
	for _, from := range treetest.FileSystems {
		for _, to := range treetest.FileSystems {
			t.Run(from+" to "+to, func(t *testing.T) {
				r := newRig(t, treetest.Mount(t, from))
				if to != from {
					r.dst = filepath.Join(treetest.Mount(t, to), "_data")
					treetest.Must(t, os.Mkdir(r.dst, 0o755))
				}
				treetest.Must(t, os.Mkdir(filepath.Join(r.src, "d"), 0o755))
				treetest.Write(t, filepath.Join(r.src, "d/f"), []byte("f"))
				lists := map[string]string{"d/f": "system.posix_acl_access", "d": "system.posix_acl_default"}
				for path, name := range lists {
					treetest.Must(t, unix.Setxattr(filepath.Join(r.src, path), name, treetest.ACL(7, 5, 1), 0))
				}
				for range 2 {
					r.capture(t)
					r.ship(t)
					_, err := r.applier.Apply(t.Context(), r.base.ID, r.roots())
					treetest.Must(t, err)
					diffs, err := r.applier.Verify(t.Context(), r.base.ID, r.roots())
					treetest.Must(t, err)
					if len(diffs) > 0 {
						t.Errorf("it is not what was captured: %v", diffs)
					}
					for path, name := range lists {
						if want, got := attribute(t, filepath.Join(r.src, path), name), attribute(t, filepath.Join(r.dst, path), name); len(want) == 0 || !bytes.Equal(want, got) {
							t.Errorf("%s: the list is %x, want %x", path, got, want)
						}
					}
					for path := range lists {
						treetest.Must(t, os.Chown(filepath.Join(r.src, path), 1234, 1234))
					}
				}
			})
		}
	}
}

func attribute(t *testing.T, path, name string) []byte {
	t.Helper()
	b := make([]byte, 4096)
	n, err := unix.Getxattr(path, name, b)
	treetest.Must(t, err)
	return b[:n]
}
