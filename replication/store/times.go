package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
)

// The store's own time is what retention counts by. It begins as the wall
// clock's and moves on by the kernel's steady clock, so a wall clock that jumps
// moves nothing; it never goes back from one commit to the next. Each commit
// leaves a line of it in the file "times". Lines that a power cut took are made
// up for from the manifests' own times; nothing but retention and display hangs on them.
const (
	timesFile = "times"
	// believable is how long a node may have been down: a wall clock that says
	// otherwise, across a boot, is taken to have been set.
	believable = 31 * 24 * time.Hour
	maxStamp   = 640 // bytes of a line
)

// stamp is a line of the file: when something in the store came to be.
type stamp struct {
	name   string           // of the file, relative to the store
	wall   time.Time        // by this node's clock, for people
	at     time.Duration    // in the store's own time
	boot   string           // in which steady counts
	steady time.Duration    // by the kernel's clock that nobody sets
	sum    replication.Hash // of a generation's volumes; zero: not known
	whole  replication.Hash // of a generation, whatever it is kept as a delta of: see identity
	did    string           // what it changed, in short: see activity; "-": not known
}

func (t stamp) line() string {
	return fmt.Sprintf("%s %d %d %s %d %s %s %s\n", t.name, t.wall.UnixNano(), int64(t.at), t.boot, int64(t.steady), t.sum, t.whole, cmp.Or(t.did, "-"))
}

// parseStamp reads a line; false: it is torn, or not one of ours.
func parseStamp(line string) (t stamp, ok bool) {
	f := strings.Split(line, " ")
	if len(f) != 8 || f[0] == "" {
		return t, false
	}
	wall, err1 := strconv.ParseInt(f[1], 10, 64)
	at, err2 := strconv.ParseInt(f[2], 10, 64)
	steady, err3 := strconv.ParseInt(f[4], 10, 64)
	sum, err4 := ParseHash(f[5])
	whole, err5 := ParseHash(f[6])
	if errors.Join(err1, err2, err3, err4, err5) != nil {
		return t, false
	}
	return stamp{f[0], time.Unix(0, wall), time.Duration(at), f[3], time.Duration(steady), sum, whole, f[7]}, true
}

// steadyClock is the kernel's clock that counts on from the boot, also while the
// node sleeps, and which boot that was.
func steadyClock() (boot string, since time.Duration) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var ts unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return "-", 0
	}
	return strings.TrimSpace(string(id)), time.Duration(ts.Nano())
}

// now is the store's own time, going on from last; the zero stamp: nothing was committed yet.
func (s *Store) now(last stamp) stamp {
	t := stamp{wall: s.o.Now()}
	t.boot, t.steady = s.o.Steady()
	switch {
	case last.name == "":
		t.at = time.Duration(t.wall.UnixNano())
	case t.boot == last.boot && t.boot != "-":
		t.at = last.at + max(0, t.steady-last.steady)
	default:
		t.at = last.at + passed(last.wall, t.wall)
	}
	return t
}

// passed is the time between two readings of a clock that may have been set in between.
func passed(from, to time.Time) time.Duration {
	if d := to.Sub(from); d > 0 && d <= believable {
		return d
	}
	return 0
}

// stampLocked notes that a file came to be; its times are set here. It is not synced: see times.
func (s *Store) stampLocked(is stamp) error {
	f, err := os.OpenFile(s.path(timesFile), os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Mode().Perm() != fileMode {
		_ = f.Chmod(fileMode) // the umask took bits away; the owner puts them back
	}
	from := max(0, fi.Size()-2*maxStamp)
	tail := make([]byte, fi.Size()-from)
	if _, err := f.ReadAt(tail, from); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := s.o.Hook.At("append " + timesFile); err != nil {
		return err
	}
	_, last := parseStamps(tail)
	t := s.now(last)
	t.name, t.sum, t.whole, t.did = is.name, is.sum, is.whole, is.did
	line := t.line()
	if len(tail) > 0 && tail[len(tail)-1] != '\n' {
		line = "\n" + line // after one that was torn
	}
	_, err = f.WriteString(line)
	return err
}

// parseStamps gives the newest line of each name, and the last one of all.
func parseStamps(b []byte) (byName map[string]stamp, last stamp) {
	byName = map[string]stamp{}
	for line := range bytes.Lines(b) {
		text, whole := strings.CutSuffix(string(line), "\n")
		if t, ok := parseStamp(text); ok && whole {
			byName[t.name] = t
			last = t
		}
	}
	return byName, last
}

func (s *Store) stamps() (byName map[string]stamp, last stamp, err error) {
	b, err := os.ReadFile(s.path(timesFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, stamp{}, err
	}
	byName, last = parseStamps(b)
	return byName, last, nil
}

func generationName(id replication.ID) string {
	return filepath.Join("generations", id.String()+manifestSuffix)
}

// committed gives each of the generations, which are in order, its stamp. In
// the store's own time none is before the one it follows, whatever is known.
func (s *Store) committed(ids []replication.ID) ([]stamp, error) {
	known, _, err := s.stamps()
	if err != nil {
		return nil, err
	}
	out := make([]stamp, len(ids))
	var sure time.Duration // the newest that is known
	for i, id := range ids {
		t, ok := known[generationName(id)]
		if ok {
			t.at = max(t.at, sure)
			sure = t.at
		} else {
			fi, err := os.Stat(s.manifestFile(id))
			if err != nil {
				return nil, err
			}
			t = stamp{name: generationName(id), wall: fi.ModTime(), at: time.Duration(fi.ModTime().UnixNano()), boot: "-"}
			if i > 0 {
				t.at = out[i-1].at + passed(out[i-1].wall, t.wall)
			}
		}
		out[i] = t
	}
	// What was made up for is not after what is known of a later one.
	for i := len(out) - 2; i >= 0; i-- {
		out[i].at = min(out[i].at, out[i+1].at)
	}
	return out, nil
}

// Committed is when a generation was committed here.
type Committed struct {
	ID replication.ID
	At time.Time // this node's clock
}

// History lists what is committed, oldest first; the head is the last.
func (s *Store) History() ([]Committed, error) {
	ids, err := s.Generations()
	if err != nil {
		return nil, err
	}
	stamps, err := s.committed(ids)
	if err != nil {
		return nil, err
	}
	out := make([]Committed, len(ids))
	for i, id := range ids {
		out[i] = Committed{id, stamps[i].wall}
	}
	return out, nil
}

// compactTimesLocked keeps the lines of what is kept, or lost and may come again, the
// last one always: the next commit goes on from it. Lines that were made up for become known.
func (s *Store) compactTimesLocked(kept []stamp) error {
	b, err := os.ReadFile(s.path(timesFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	byName, last := parseStamps(b)
	lost, err := s.recordedLacks()
	if err != nil {
		return err
	}
	for _, id := range lost.Generations {
		if t, ok := byName[generationName(id)]; ok && !slices.ContainsFunc(kept, func(k stamp) bool { return k.name == t.name }) {
			kept = append(kept, t)
		}
	}
	var out strings.Builder
	for _, t := range kept {
		if t.name != last.name {
			out.WriteString(t.line())
		}
		delete(byName, t.name)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) { // of files elsewhere in the store
		if strings.HasPrefix(name, "generations/") || name == last.name {
			continue
		}
		if _, err := os.Lstat(s.path(name)); err == nil {
			out.WriteString(byName[name].line())
		}
	}
	if last.name != "" {
		out.WriteString(last.line())
	}
	if out.String() == string(b) {
		return nil
	}
	return durable.WriteFile(s.path(timesFile), []byte(out.String()), fileMode, s.o.Hook)
}
