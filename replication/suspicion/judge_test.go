package suspicion

import (
	"slices"
	"testing"
)

// TestHabits: what a service does all the time is no sign of anything, what stands out is.
func TestHabits(t *testing.T) {
	spool := Volume{Name: "spool", Entries: 100, Activity: Activity{Changed: 60, Renamed: 80, Gone: 70, Noised: 30}, Eligible: 50}
	if Judge([]Volume{spool}, Usual{}) == "" {
		t.Error("nothing is said of a service without habits")
	}
	past := slices.Repeat([]Activity{{Changed: 50, Renamed: 70, Gone: 60, Noised: 25}}, 20)
	if why := Judge([]Volume{spool}, UsualOf(past)); why != "" {
		t.Errorf("what is usual is suspect: %s", why)
	}
	// Once is no habit, nor is what a generation in twenty does.
	rare := append(slices.Repeat([]Activity{{Changed: 1}}, 19), past[0])
	for _, past := range [][]Activity{past[:enough-1], rare} {
		if Judge([]Volume{spool}, UsualOf(past)) == "" {
			t.Errorf("nothing is said after %v", past)
		}
	}
}

func TestCreeping(t *testing.T) {
	few := Activity{Changed: 3, Noised: 2}
	for name, tt := range map[string]struct {
		now    Activity
		recent []Activity
		want   bool
	}{
		"adds up":           {few, slices.Repeat([]Activity{few}, 10), true},
		"too few yet":       {few, slices.Repeat([]Activity{few}, 5), false},
		"none in this one":  {Activity{Changed: 9}, slices.Repeat([]Activity{few}, 10), false},
		"little of it":      {few, slices.Repeat([]Activity{{Changed: 20, Noised: 2}}, 10), false},
		"nothing before it": {few, nil, false},
	} {
		if why := Creeping(tt.now, tt.recent); (why != "") != tt.want {
			t.Errorf("%s: %q", name, why)
		}
	}
}

func TestRotatedNames(t *testing.T) {
	for suffix, want := range map[string]bool{
		".1": true, ".2.gz": true, "-20261122": true, "-20261122.zst": true, ".gz": true, ".locked": false, ".gzz": false, "._": true, ".x1": false,
	} {
		if rotated(suffix) != want {
			t.Errorf("%q is rotated: %v", suffix, !want)
		}
	}
}
