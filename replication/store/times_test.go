package store

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/understudy-ha/understudy/replication"
)

// What is kept after a prune with every generation is what is kept of all of them by
// one prune at the end, but for the oldest, which waits for its hour; and it is as
// much as the policy says.
func TestKeepIsSteady(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{
			KeepLast: rapid.IntRange(2, 9).Draw(t, "last"), Hourly: rapid.IntRange(2, 9).Draw(t, "hourly"),
			Daily: rapid.IntRange(2, 9).Draw(t, "daily"), Weekly: rapid.IntRange(0, 5).Draw(t, "weekly"),
		}
		at := time.Duration(mondayMorning.UnixNano())
		var all, left []time.Duration
		for range rapid.IntRange(1, 400).Draw(t, "generations") {
			at += time.Duration(rapid.IntRange(1, 9_000_000).Draw(t, "pause")) * time.Millisecond
			all, left = append(all, at), append(left, at)
			left = kept(p, left)
		}
		want := kept(p, all)
		if less := slices.DeleteFunc(slices.Clone(want[min(1, len(want)):]), func(a time.Duration) bool { return slices.Contains(left, a) }); len(less) > 0 {
			t.Fatalf("pruned step by step, %v are missing of %v", less, want)
		}
		if most := p.KeepLast + p.Hourly + p.Daily + p.Weekly + 1; len(left) > most {
			t.Fatalf("%d generations are kept, at most %d should be", len(left), most)
		}
		weeks := map[time.Duration]bool{}
		for _, a := range left {
			weeks[(a-monday)/week] = true
		}
		if have := int((at-monday)/week - (all[0]-monday)/week + 1); len(weeks) < min(have, p.Weekly) {
			t.Fatalf("of %d weeks %d are left, %d should be", have, len(weeks), p.Weekly)
		}
	})
}

func kept(p Policy, at []time.Duration) (left []time.Duration) {
	for i, stays := range p.keep(at) {
		if stays {
			left = append(left, at[i])
		}
	}
	return left
}

// jumpy is a node's clocks: the wall clock is off by what somebody did to it.
type jumpy struct {
	past, off time.Duration
	boot      string
	booted    time.Duration
}

func (j *jumpy) now() time.Time { return mondayMorning.Add(j.past + j.off) }

func (j *jumpy) steady() (string, time.Duration) { return j.boot, j.past - j.booted }

// A wall clock that is set by years, forth or back, at any time, evicts nothing that
// would not have gone anyway, and keeps nothing for years.
func TestAJumpingClockEvictsNothing(t *testing.T) {
	const decade = 10 * 365 * day
	run := func(t *testing.T, n int, jump func(i int, j *jumpy)) []replication.ID {
		j := &jumpy{boot: "a"}
		root := t.TempDir()
		s := open(t, root, Options{Now: j.now, Steady: j.steady})
		policy := Policy{KeepLast: 3, Hourly: 4, Daily: 3, Weekly: 3}
		parent := replication.ID{}
		for i := range n {
			jump(i, j)
			at := id(1, uint64(i+1))
			commit(t, s, manifest(at, parent))
			parent = at
			if i%5 == 0 {
				if _, err := s.Prune(policy); err != nil {
					t.Fatal(err)
				}
				// The next process knows nothing of what this one knew.
				s = open(t, root, Options{Now: j.now, Steady: j.steady})
			}
			j.past += []time.Duration{7 * time.Minute, 90 * time.Minute, 30 * time.Hour}[i%3]
		}
		prune(t, s, policy)
		return generations(t, s)
	}
	const most = 60
	want := run(t, most, func(int, *jumpy) {})
	if len(want) < 8 {
		t.Fatalf("without a jump %v stay: the test tries nothing", want)
	}
	for name, jump := range map[string]func(int, *jumpy){
		"forth":          func(i int, j *jumpy) { j.off = decade * time.Duration(i/40) },
		"back":           func(i int, j *jumpy) { j.off = -decade * time.Duration(i/40) },
		"forth and back": func(i int, j *jumpy) { j.off = decade * time.Duration(i%2) },
		"by hours":       func(i int, j *jumpy) { j.off = 5 * time.Hour * time.Duration(i%3-1) },
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(want, run(t, most, jump)); d != "" {
				t.Errorf("kept (-without a jump +with):\n%s", d)
			}
		})
	}
	t.Run("across a boot", func(t *testing.T) {
		// The node comes up without a battery-backed clock; later its clock is set.
		const booted = 31
		before := run(t, booted+2, func(int, *jumpy) {})
		got := run(t, booted+2, func(i int, j *jumpy) {
			switch i {
			case booted:
				j.boot, j.booted, j.off = "b", j.past, -decade
			case booted + 1:
				j.off = decade
			}
		})
		if d := cmp.Diff(before, got); d != "" {
			t.Errorf("kept (-without a jump +with):\n%s", d)
		}
	})
}

// The lines are a help, not a need: torn, lost, or from nowhere, nothing goes wrong.
func TestTimesAreMadeUpFor(t *testing.T) {
	c := &clock{}
	root := t.TempDir()
	s := open(t, root, Options{Now: c.now, Steady: c.steady})
	spread(t, s, 4, func() { c.ahead += 3 * time.Hour })
	whole, err := os.ReadFile(s.path(timesFile))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(whole), "\n")
	for name, text := range map[string]string{
		"none":            "",
		"torn":            string(whole[:len(whole)-9]),
		"zeros":           string(whole[:len(whole)-200]) + strings.Repeat("\x00", 200),
		"one in between":  lines[0] + lines[1] + lines[3] + lines[4],
		"the newest only": lines[4],
		"nonsense":        "generations/1.2.manifest 99999999999999999999 1 b 1 x\n" + lines[1],
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(s.path(timesFile), []byte(text), 0o660); err != nil {
				t.Fatal(err)
			}
			at, err := s.committed(generations(t, s))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.IsSortedFunc(at, func(a, b stamp) int { return int(a.at - b.at) }) {
				t.Errorf("times go back: %v", at)
			}
			if err := s.locked(func() error {
				return s.stampLocked(stamp{name: "generations/1.5.manifest", sum: replication.Hash{1}, whole: replication.Hash{2}, did: "1,2,3,4"})
			}); err != nil {
				t.Fatal(err)
			}
			known, last, err := s.stamps()
			if err != nil || last.name != "generations/1.5.manifest" || known[last.name].sum != (replication.Hash{1}) || last.whole != (replication.Hash{2}) || last.did != "1,2,3,4" {
				t.Errorf("a line after that: %+v, %v", last, err)
			}
			if _, err := s.Prune(Policy{KeepLast: 9}); err != nil {
				t.Error(err)
			}
			if left := len(generations(t, s)); left != 4 {
				t.Errorf("%d generations are left", left)
			}
		})
	}
}

func TestSteadyClock(t *testing.T) {
	boot, first := steadyClock()
	again, second := steadyClock()
	if boot == "-" || boot != again || second < first || first <= 0 {
		t.Errorf("%q at %v, then %q at %v", boot, first, again, second)
	}
}

func TestPins(t *testing.T) {
	c := &clock{}
	root := t.TempDir()
	s := open(t, root, Options{Now: c.now, Steady: c.steady})
	spread(t, s, 6, func() { c.ahead += 2 * time.Hour })
	for _, at := range []replication.ID{id(1, 3), id(1, 2), id(1, 3)} {
		if err := s.Pin(at, "because "+at.String()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Pin(id(1, 7), ""); !errors.Is(err, replication.ErrNotFound) {
		t.Errorf("a generation that there is not: %v", err)
	}
	prune(t, s, Policy{})
	if d := cmp.Diff([]replication.ID{id(1, 2), id(1, 3), id(1, 5), id(1, 6)}, generations(t, s)); d != "" {
		t.Errorf("kept (-want +got):\n%s", d)
	}
	if err := s.Unpin(id(1, 2)); err != nil {
		t.Fatal(err)
	}
	if err := s.Unpin(id(1, 2)); !errors.Is(err, replication.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
	pins, err := open(t, root, Options{Steady: c.steady}).Pins()
	if err != nil || len(pins) != 1 || pins[0].ID != id(1, 3) || pins[0].Why != "because 1.3" {
		t.Errorf("%+v, %v", pins, err)
	}
	// Without the list nothing may go.
	if err := os.WriteFile(s.path(pinsFile), []byte("[{"), 0o660); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Prune(Policy{}); err == nil || len(out.Generations) > 0 || len(generations(t, s)) != 4 {
		t.Errorf("%+v, %v", out, err)
	}
}
