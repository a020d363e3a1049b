package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/capture"
)

// stands is a freezer that lets a test act in the freeze, and measures it.
type stands struct {
	in   func(ctx context.Context) error
	took time.Duration
}

func (s *stands) Freeze(ctx context.Context) (func() error, error) {
	began := time.Now()
	if err := s.in(ctx); err != nil {
		return nil, err
	}
	return func() error {
		s.took = time.Since(began)
		return nil
	}, nil
}

// Whenever containers stood still, that counts: also where it was for nothing.
func TestFreezesCount(t *testing.T) {
	s := newSide(t)
	file := filepath.Join(s.tree, "file")
	const limit = 50 * time.Millisecond
	fast := func(context.Context) error { return nil }
	slow := func(ctx context.Context) error { <-ctx.Done(); return nil }
	refused := errors.New("no guard")
	halfWay := &replication.StoodStill{For: time.Hour, Err: errors.New("one did not come to a stand")}
	for _, step := range []struct {
		name  string
		max   time.Duration
		in    func(ctx context.Context) error
		want  error
		old   bool // nothing new is sealed
		count bool
	}{
		{name: "sealed", max: time.Hour, in: fast, count: true},
		{name: "nothing had changed", max: time.Hour, in: func(context.Context) error { return os.Chmod(file, 0o644) }, old: true, count: true},
		{name: "too long", max: limit, in: slow, want: capture.ErrFreezeTooLong, count: true},
		{name: "never stood still", max: time.Hour, in: func(context.Context) error { return refused }, want: refused},
		{name: "one did not come to a stand", max: time.Hour, in: func(context.Context) error { return halfWay }, want: halfWay, count: true},
	} {
		if step.old {
			if err := os.Chmod(file, 0o600); err != nil {
				t.Fatal(err)
			}
		} else {
			s.write("file", step.name)
		}
		f := &stands{in: step.in}
		r := s.request(1)
		r.Freezer, r.FreezeMax = f, step.max
		before, began := s.Counts(), time.Now()
		res, err := s.Seal(t.Context(), r)
		most := time.Since(began)
		if !errors.Is(err, step.want) || err == nil && res.New == step.old {
			t.Fatalf("%s: %+v, %v", step.name, res, err)
		}
		if stood := new(replication.StoodStill); errors.As(err, &stood) {
			f.took, most = stood.For, stood.For
		}
		c := s.Counts()
		if n := c.Freezes - before.Freezes; (n == 1) != step.count || n > 1 {
			t.Errorf("%s: %d freezes counted", step.name, n)
		}
		if d := c.Frozen - before.Frozen; step.count && (d < f.took || d > most) {
			t.Errorf("%s: %s counted, it was %s to %s", step.name, d, f.took, most)
		}
	}
	// Of the four, the longest is the hour, and of the others the one that took too long was about limit.
	if p50, p99, most := s.Freezes(); p50 < limit/2 || p50 >= time.Hour || p99 != time.Hour || most != time.Hour {
		t.Errorf("median %s, 99%% %s, longest %s", p50, p99, most)
	}
}

// Sockets are counted, of all volumes, whether or not there is something new.
func TestSocketsCount(t *testing.T) {
	s := newSide(t)
	other := filepath.Join(s.t.TempDir(), "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	seal := func(want int, isNew bool) {
		t.Helper()
		r := s.request(1)
		r.Roots["other"] = other
		res, err := s.Seal(t.Context(), r)
		if err != nil || res.Sockets != want || res.New != isNew {
			t.Errorf("%d sockets are there, %+v, %v", want, res, err)
		}
	}
	listen := func(dir, name string) {
		t.Helper()
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFSOCK|0o600, 0); err != nil {
			t.Fatal(err)
		}
	}
	s.write("file", "x")
	seal(0, true)
	listen(s.tree, "a")
	listen(s.tree, "b")
	listen(other, "c")
	seal(3, true)
	seal(3, false)
	if err := os.Remove(filepath.Join(s.tree, "a")); err != nil {
		t.Fatal(err)
	}
	seal(2, true)
}
