package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// gap is a time in which the process did not run though it wanted to, Unix ns.
type gap struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// serveTick notes, inside of a container, when it stood still: what a freeze is to
// the service. Gaps shorter than two milliseconds are the scheduler's.
func serveTick(ctx context.Context, f *flag.FlagSet, args []string) (any, error) {
	path := f.String("to", "/gaps", "file that gaps are appended to, as lines of JSON")
	_ = f.Parse(args) // exits on error
	out, err := os.OpenFile(*path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	write := json.NewEncoder(out)
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for before := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil, nil
		case <-tick.C:
		}
		now := time.Now()
		if now.Sub(before) >= 2*time.Millisecond {
			if err := write.Encode(gap{before.UnixNano(), now.UnixNano()}); err != nil {
				return nil, err
			}
		}
		before = now
	}
}

// serveBeat writes the time over and over into a file that outlives the node: when
// its power was cut, to a millisecond.
func serveBeat(ctx context.Context, f *flag.FlagSet, args []string) (any, error) {
	path := f.String("to", "/var/tmp/beat", "file")
	_ = f.Parse(args) // exits on error
	out, err := os.OpenFile(*path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	for ctx.Err() == nil {
		if err := stamp(out); err != nil {
			return nil, err
		}
		_ = pause(ctx, time.Millisecond)
	}
	return nil, nil
}

// stamp writes now, Unix ns, at the beginning of a file.
func stamp(f *os.File) error {
	_, err := f.WriteAt(fmt.Appendf(nil, "%019d\n", time.Now().UnixNano()), 0)
	return err
}

// loadBatch is how much load writes before it stamps the time.
const loadBatch = 10 * time.Millisecond

// serveLoad is a service that writes: blocks of 64 KiB at random places of the files
// in its volume, at a steady rate, and after each batch the time. When it starts it
// notes the stamp that it found: what a takeover went on with.
func serveLoad(ctx context.Context, f *flag.FlagSet, args []string) (any, error) {
	dir := f.String("dir", "/data", "the volume; its files named file* are written to")
	rate := f.Int("rate", 10<<20, "bytes a second")
	seed := f.Uint64("seed", 1, "of places and content")
	_ = f.Parse(args) // exits on error
	if err := noteFound(*dir); err != nil {
		return nil, err
	}
	files, err := openAll(filepath.Join(*dir, "large", "*", "*"))
	if err != nil {
		return nil, err
	}
	now, err := os.OpenFile(filepath.Join(*dir, "stamp"), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	src := newSource(*seed ^ uint64(time.Now().UnixNano())) // never the same twice: nothing may be a duplicate
	rng := rand.New(src.rng)
	block := make([]byte, 64<<10)
	began, written := time.Now(), int64(0)
	for ctx.Err() == nil {
		for due := int64(time.Since(began).Seconds() * float64(*rate)); written < due && len(files) > 0; written += int64(len(block)) {
			t := files[rng.IntN(len(files))]
			src.noise(block)
			if _, err := t.WriteAt(block, rng.Int64N(max(1, t.size/int64(len(block))))*int64(len(block))); err != nil {
				return nil, err
			}
		}
		if err := stamp(now); err != nil {
			return nil, err
		}
		_ = pause(ctx, loadBatch)
	}
	return nil, nil
}

// noteFound appends the stamp that is there, and when it was found, to the volume's journal of starts.
func noteFound(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "stamp"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	was, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return fmt.Errorf("the stamp is torn: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "starts"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(f).Encode(gap{was, time.Now().UnixNano()}), f.Close())
}

// target is a file to write to.
type target struct {
	*os.File
	size int64
}

func openAll(pattern string) ([]target, error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	var out []target
	for _, p := range paths {
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		out = append(out, target{f, st.Size()})
	}
	return out, nil
}
