package image

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func newVault(t *testing.T) *Vault {
	t.Helper()
	v, err := OpenVault(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func add(t *testing.T, v *Vault, archive []byte) {
	t.Helper()
	if _, err := v.Add(bytes.NewReader(archive), int64(len(archive))); err != nil {
		t.Fatal(err)
	}
}

// blobFiles are the names of what is kept.
func blobFiles(t *testing.T, v *Vault) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(v.dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestVaultGivesBackWhatArrived(t *testing.T) {
	v := newVault(t)
	es, id := podman("base", "top")
	full := pack(es)
	add(t, v, full)
	add(t, v, full) // again, as after a kill
	var out bytes.Buffer
	info, err := v.Write(&out, id)
	if err != nil || info.ID != id || len(missingOf(info)) > 0 {
		t.Fatalf("%+v, %v", info, err)
	}
	again, err := Inspect(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil || again.ID != id || !slices.Equal(diffIDs(again), diffIDs(info)) {
		t.Errorf("what was written is %+v, %v", again, err)
	}
	if ids, err := v.Images(); err != nil || !slices.Equal(ids, []string{bare(id)}) {
		t.Errorf("images %q, %v", ids, err)
	}
	if _, err := v.Write(&out, digest([]byte("none"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an image that never arrived: %v", err)
	}
}

// A thin archive completes what arrived before, and says what is missing where nothing did.
func TestVaultOfThinArchives(t *testing.T) {
	es, id := podman("base", "top")
	_, thinned, err := thin(pack(es), digest([]byte("base")))
	if err != nil {
		t.Fatal(err)
	}
	v := newVault(t)
	add(t, v, thinned)
	var out bytes.Buffer
	info, err := v.Write(&out, id)
	if err != nil || !slices.Equal(missingOf(info), []string{digest([]byte("base"))}) {
		t.Errorf("%+v, %v", info, err)
	}
	other, _ := podman("base")
	add(t, v, pack(other))
	if info, err := v.Write(&out, id); err != nil || len(missingOf(info)) > 0 {
		t.Errorf("with the layer of another image: %+v, %v", info, err)
	}
}

func TestVaultDropsWhatWentBad(t *testing.T) {
	v := newVault(t)
	es, id := podman("base", "top")
	add(t, v, pack(es))
	layer := v.blob(bare(digest([]byte("top"))))
	raw, err := os.ReadFile(layer)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{"flipped": append(slices.Clone(raw[:len(raw)-1]), raw[len(raw)-1]^1), "cut": raw[:len(raw)/2], "empty": nil} {
		if err := os.WriteFile(layer, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		info, err := v.Write(&out, id)
		if err != nil || !slices.Equal(missingOf(info), []string{digest([]byte("top"))}) {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
		if _, err := os.Stat(layer); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the layer is still there: %v", name, err)
		}
	}
	add(t, v, pack(es))
	if info, err := v.Write(&bytes.Buffer{}, id); err != nil || len(missingOf(info)) > 0 {
		t.Errorf("after it arrived again: %+v, %v", info, err)
	}
}

func TestVaultPrunesWhatNobodyNeeds(t *testing.T) {
	v := newVault(t)
	one, first := podman("base", "one")
	two, second := podman("base", "two")
	add(t, v, pack(one))
	add(t, v, pack(two))
	if err := os.WriteFile(filepath.Join(v.dir, "blobs", ".blob-left"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dropped, err := v.Prune(func(id string) bool { return id == bare(second) })
	if err != nil || !slices.Equal(dropped, []string{bare(first)}) {
		t.Fatalf("dropped %q, %v", dropped, err)
	}
	files := blobFiles(t, v)
	if slices.Contains(files, bare(digest([]byte("one")))) || !slices.Contains(files, bare(digest([]byte("base")))) || slices.Contains(files, ".blob-left") {
		t.Errorf("left are %q", files)
	}
	if info, err := v.Write(&bytes.Buffer{}, second); err != nil || len(missingOf(info)) > 0 {
		t.Errorf("the other image: %+v, %v", info, err)
	}
}

// Killed at each step, the next Add completes it and nothing wrong is kept.
func TestVaultKilled(t *testing.T) {
	es, id := podman("base", "top")
	killed := errors.New("killed")
	for n := 0; ; n++ {
		v := newVault(t)
		step := 0
		v.hook = func(string) error {
			if step++; step == n+1 {
				return killed
			}
			return nil
		}
		full := pack(es)
		_, err := v.Add(bytes.NewReader(full), int64(len(full)))
		if err == nil {
			if n < 8 {
				t.Errorf("only %d steps", n)
			}
			return
		}
		if !errors.Is(err, killed) {
			t.Fatal(err)
		}
		v.hook = nil
		ids, err := v.Images()
		if err != nil {
			t.Fatal(err)
		}
		for _, kept := range ids { // what is there is whole
			if info, err := v.Write(&bytes.Buffer{}, kept); err != nil || len(missingOf(info)) > 0 {
				t.Fatalf("killed at step %d, and of %s there is %+v, %v", n, kept, info, err)
			}
		}
		add(t, v, full)
		if info, err := v.Write(&bytes.Buffer{}, id); err != nil || len(missingOf(info)) > 0 {
			t.Fatalf("after a kill at step %d: %+v, %v", n, info, err)
		}
	}
}
