package suspicion

import (
	"fmt"
	"slices"
	"strings"
)

// Usual is what a service has done in a generation, at most in nine of ten of those that
// are remembered.
type Usual struct{ Activity }

// enough is how many generations make a habit.
const enough = 5

// UsualOf learns from what generations did that were nothing to worry about.
func UsualOf(past []Activity) (u Usual) {
	if len(past) < enough {
		return u
	}
	at := func(of func(Activity) int) int {
		ns := make([]int, len(past))
		for i, a := range past {
			ns[i] = of(a)
		}
		slices.Sort(ns)
		return ns[(len(ns)-1)*9/10]
	}
	u.Changed = at(func(a Activity) int { return a.Changed })
	u.Noised = at(func(a Activity) int { return a.Noised })
	u.Renamed = at(func(a Activity) int { return a.Renamed })
	u.Gone = at(func(a Activity) int { return a.Gone })
	return u
}

// far is how many times the usual is far more than usual.
const far = 8

func (u Usual) exceededBy(n, usual int) bool { return n > far*usual }

// Creeping says whether an attack goes on in steps that are each too small to be told:
// what the latest generations did together with this one.
func Creeping(now Activity, recent []Activity) string {
	all := now
	for _, a := range recent {
		all = all.Plus(a)
	}
	if now.Noised == 0 || all.Noised < 20 || all.Noised*2 < all.Changed {
		return ""
	}
	return fmt.Sprintf("%d files that could be compressed have become noise in the last %d generations, of %d that changed, as if they were being encrypted", all.Noised, len(recent)+1, all.Changed)
}

// Sum adds up what the volumes did.
func Sum(vs []Volume) (a Activity) {
	for _, v := range vs {
		a = a.Plus(v.Activity)
	}
	return a
}

// Plus adds up.
func (a Activity) Plus(b Activity) Activity {
	return Activity{a.Changed + b.Changed, a.Noised + b.Noised, a.Renamed + b.Renamed, a.Gone + b.Gone}
}

// Judge says what looks like an attack in how a generation changes the volumes, in
// words; "": nothing does.
func Judge(vs []Volume, u Usual) string {
	var why []string
	for i := range vs {
		if text := vs[i].judge(u); text != "" {
			why = append(why, "volume "+vs[i].Name+": "+text)
		}
	}
	return strings.Join(why, "; ")
}

func (v *Volume) judge(u Usual) string {
	switch {
	case v.noised(u):
		return fmt.Sprintf("%d files that could be compressed are noise now, of %d that changed, as if they had been encrypted", v.Noised, v.Changed)
	case v.manyNames(u):
		return fmt.Sprintf("%d of %d files have another name%s", v.Renamed, v.Entries, v.mostSuffix())
	case v.Gone >= 20 && v.Gone*2 >= v.Entries && u.exceededBy(v.Gone, u.Gone):
		return fmt.Sprintf("%d of %d files are gone or empty", v.Gone, v.Entries)
	case v.unlike(u):
		return fmt.Sprintf("%d of %d files changed, far more than usual, and their content is of another kind: it compressed to %.0f %% and does to %.0f %% now",
			v.Changed, v.Entries, 100*v.before.ratio(), 100*v.after.ratio())
	}
	return ""
}

// noised: several files, and most of what changed and could be compressed; or most of
// a small volume; or a lot of a large file.
func (v *Volume) noised(u Usual) bool {
	if v.Noised == 0 || v.Noised*2 < v.Eligible || !u.exceededBy(v.Noised, u.Noised) {
		return false
	}
	return v.Noised >= 8 || v.NoisedBytes >= 1<<20 || v.Noised*2 >= v.Entries && v.NoisedBytes >= 64<<10
}

// manyNames: most files, or many and by the same suffix.
func (v *Volume) manyNames(u Usual) bool {
	if !u.exceededBy(v.Renamed, u.Renamed) {
		return false
	}
	if v.Renamed >= 10 && v.Renamed*2 >= v.Entries {
		return true
	}
	for suffix, n := range v.Suffixes {
		if n >= 100 && suffix[0] == '.' {
			return true
		}
	}
	return false
}

func (v *Volume) mostSuffix() string {
	best := ""
	for suffix, n := range v.Suffixes {
		if n*2 > v.Renamed {
			best = fmt.Sprintf(", most by the suffix %q", suffix)
		}
	}
	return best
}

// unlike: far more files than usual, and what is in them is something else.
func (v *Volume) unlike(u Usual) bool {
	if v.Changed < 20 || v.Changed*2 < v.Entries || v.Eligible*2 < v.Changed || !u.exceededBy(v.Changed, u.Changed) {
		return false
	}
	d := v.after.ratio() - v.before.ratio()
	return d > 0.25 || d < -0.25
}
