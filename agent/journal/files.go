package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
)

// segments is into how many files the bound is divided: as much as one of them
// is forgotten at a time.
const segments = 8

// segment is one file of the journal.
type segment struct {
	path  string
	first uint64 // from its name
	size  int64
}

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d.jsonl", first))
}

// list finds the segments, oldest first. Names that are not ours are left alone.
func list(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []segment
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".jsonl")
		first, err := strconv.ParseUint(name, 10, 64)
		if !ok || len(name) != 20 || err != nil {
			continue
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, segment{path: filepath.Join(dir, e.Name()), first: first, size: fi.Size()})
	}
	slices.SortFunc(out, func(a, b segment) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	return out, nil
}

// resume opens the newest segment for appending, behind its last whole entry,
// and finds the next sequence number. Needs mu, except in Open.
func (j *Journal) resume() error {
	segs, err := list(j.opts.Dir)
	if err != nil {
		return err
	}
	if len(segs) == 0 {
		return j.createLocked(j.next)
	}
	last := segs[len(segs)-1]
	f, err := os.OpenFile(last.path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	entries, whole, err := scan(f)
	if err == nil && whole < last.size {
		j.opts.Log.Warn("cutting a torn entry off the decision journal", "file", last.path, "bytes", last.size-whole)
		if err = f.Truncate(whole); err == nil {
			err = f.Sync()
		}
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	j.f, j.size, j.first = f, whole, last.first
	j.next = max(j.next, last.first)
	if n := len(entries); n > 0 {
		j.next = max(j.next, entries[n-1].Seq+1)
		j.recent = entries[max(0, n-recentMax):]
	}
	return nil
}

// rotateLocked begins a new segment and forgets the oldest beyond the bound.
func (j *Journal) rotateLocked() error {
	old := j.f
	if err := j.createLocked(j.next); err != nil {
		return err
	}
	if err := old.Close(); err != nil {
		j.opts.Log.Warn("close old file of the decision journal", "err", err)
	}
	if err := j.forget(); err != nil {
		// The entry at hand matters more than the bound; the next rotation tries again.
		j.opts.Log.Warn("remove old files of the decision journal", "err", err)
	}
	return nil
}

// forget removes the oldest segments that do not fit into the bound together
// with the newest one fully grown.
func (j *Journal) forget() error {
	segs, err := list(j.opts.Dir)
	if err != nil {
		return err
	}
	total := j.opts.MaxSize / segments
	for i := len(segs) - 2; i >= 0; i-- {
		if total += segs[i].size; total > j.opts.MaxSize {
			err = errors.Join(err, os.Remove(segs[i].path))
		}
	}
	return err
}

// createLocked makes a new segment. Its name is durable before an entry is in it.
func (j *Journal) createLocked(first uint64) error {
	f, err := os.OpenFile(segmentPath(j.opts.Dir, first), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	dir, err := os.Open(j.opts.Dir)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	j.f, j.size, j.first = f, 0, first
	return nil
}

// scan reads a segment's entries and says how many bytes are whole lines up to
// the last entry. A damaged line before that is passed over: it must not take
// the rest of the history with it.
func scan(r io.Reader) (entries []api.Decision, whole int64, err error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, 0, err
	}
	at := int64(0)
	for {
		i := bytes.IndexByte(data[at:], '\n')
		if i < 0 {
			return entries, whole, nil
		}
		line := data[at : at+int64(i)]
		at += int64(i) + 1
		var d api.Decision
		if json.Unmarshal(line, &d) == nil && d.Seq > 0 {
			entries = append(entries, d)
			whole = at
		}
	}
}

func readSegment(path string) ([]api.Decision, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // forgotten meanwhile
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, _, err := scan(f)
	return entries, err
}
