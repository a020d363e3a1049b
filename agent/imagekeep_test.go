package agent

import (
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// An image is read through once after a boot, and again only when that could not be done.
func TestImagesAreReadOnce(t *testing.T) {
	store, run := t.TempDir(), t.TempDir()
	open := func() *imageKeeper {
		k, err := newImageKeeper(store, run, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	k := open()
	asked := func() string {
		if bad := k.Damaged([]string{"a"}); len(bad) > 0 {
			t.Errorf("damaged before anybody looked: %q", bad)
		}
		return k.next()
	}
	for range 2 {
		if asked() != "a" {
			t.Error("an image that nobody has read is not read")
		}
	}
	k.tried["a"] = time.Now()
	if asked() != "" {
		t.Error("it could not be read a moment ago, and is tried again")
	}
	k.tried["a"] = time.Now().Add(-retryRead)
	if asked() != "a" {
		t.Error("it could not be read long ago, and is not tried again")
	}
	k.loaded("a")
	if k = open(); asked() != "" {
		t.Error("it was loaded since the boot, and is read after the agent has started anew")
	}
	run = t.TempDir() // a boot
	if k = open(); asked() != "a" {
		t.Error("nobody has read it since the boot")
	}
	k.repaired["a"] = true
	k.loaded("a")
	if asked() != "a" {
		t.Error("it was damaged and sent again, and nobody looks whether it is whole")
	}
	k.damaged["a"] = true
	if bad := k.Damaged([]string{"a", "b"}); !slices.Equal(bad, []string{"a"}) || k.next() != "b" {
		t.Errorf("damaged: %q", bad)
	}
	if marks, _ := filepath.Glob(filepath.Join(run, "*", "*")); len(marks) > 0 {
		t.Errorf("marked as whole: %q", marks)
	}
}
