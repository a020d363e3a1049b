package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var errHere = errors.New("killed here")

// Whatever step a write stops at, the file is the old or the new one, whole.
func TestWriteFileAtEveryStep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(path, []byte("old"), 0o640, nil); err != nil {
		t.Fatal(err)
	}
	var steps []string
	for n, done := 0, false; !done; n++ {
		steps = nil
		err := WriteFile(path, []byte("new"), 0o640, func(step string) error {
			if steps = append(steps, step); len(steps) > n {
				return errHere
			}
			return nil
		})
		if done = err == nil; !done && !errors.Is(err, errHere) {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil || (string(b) != "old" && string(b) != "new") || done && string(b) != "new" {
			t.Errorf("step %d: %q, %v", n, b, err)
		}
	}
	if len(steps) != 4 {
		t.Errorf("steps %q", steps)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o640 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

func TestRenameNoReplace(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, p := range []string{a, b} {
		if err := os.WriteFile(p, []byte(p), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := RenameNoReplace(a, b, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another: %v", err)
	}
	if got, err := os.ReadFile(b); err != nil || string(got) != b {
		t.Errorf("%q, %v", got, err)
	}
	if err := Remove(b, nil); err != nil {
		t.Error(err)
	}
	if err := Remove(b, nil); err != nil {
		t.Errorf("again: %v", err)
	}
	if err := RenameNoReplace(a, b, nil); err != nil {
		t.Error(err)
	}
}

func TestSweepTemp(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{".head.tmp1", ".term.tmp2", "head", ".hidden"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	young := filepath.Join(dir, ".term.tmp2")
	if err := os.Chtimes(young, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := SweepTemp(dir, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 3 {
		t.Errorf("%v, %v", left, err)
	}
}
