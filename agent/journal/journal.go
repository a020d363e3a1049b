package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// maxLine bounds one entry, in bytes. A longer one is recorded shortened.
const maxLine = 16 << 10

// Options say where a journal is and how large it may grow.
type Options struct {
	Dir     string       // made when it is not there, mode 0700
	MaxSize int64        // bytes, all files together; 0: 16 MiB
	Node    string       // set in entries that name none
	Log     *slog.Logger // every entry is logged here too; nil: nowhere
	Now     func() time.Time
}

func (o *Options) complete() {
	if o.MaxSize <= 0 {
		o.MaxSize = 16 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// Journal is an open journal. One process has it open at a time; its methods
// may be called concurrently.
type Journal struct {
	opts Options
	lock *os.File
	done chan struct{}
	wg   sync.WaitGroup // the followers

	mu      sync.Mutex
	f       *os.File // the newest file; nil after a failure that left its end unknown
	size    int64    // of f, in whole lines
	first   uint64   // sequence number that f is named by
	next    uint64
	recent  []api.Decision
	changed chan struct{} // closed and replaced at every entry
	closed  bool
}

// recentMax is how many of the newest entries are kept in memory, for followers.
const recentMax = 256

// Open opens the journal and repairs its end. It fails when another process has it open.
func Open(opts Options) (*Journal, error) {
	opts.complete()
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open decision journal: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(opts.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open decision journal: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, api.Errorf(api.KindBusy, "stop the other agent on this node first", "the decision journal %s is open in another process: %w", opts.Dir, err)
	}
	j := &Journal{opts: opts, lock: lock, done: make(chan struct{}), changed: make(chan struct{}), next: 1}
	if err := j.resume(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("open decision journal %s: %w", opts.Dir, err)
	}
	return j, nil
}

// Record writes an entry and returns when it is on disk. The entry gets its
// sequence number, and the time and node it lacks. A failure to write does not
// stop what was decided: it is logged, as the entry itself is.
func (j *Journal) Record(d api.Decision) {
	if err := j.Append(d); err != nil {
		j.opts.Log.Error("decision not journaled", "err", err)
	}
}

// Append is Record for those who must know that the entry is on disk.
func (j *Journal) Append(d api.Decision) error {
	if d.At.IsZero() {
		d.At = j.opts.Now()
	}
	if d.Node == "" {
		d.Node = j.opts.Node
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	d.Seq = j.next
	j.mirror(d)
	if j.closed {
		return fmt.Errorf("journal decision %q of service %s: %w", d.Event, d.Service, os.ErrClosed)
	}
	line, err := encode(d)
	if err != nil {
		return err
	}
	if err := j.appendLocked(line); err != nil {
		return fmt.Errorf("journal decision %q of service %s: %w", d.Event, d.Service, err)
	}
	j.next++
	j.recent = append(j.recent, d)
	if n := len(j.recent) - recentMax; n > 0 {
		j.recent = append(j.recent[:0:0], j.recent[n:]...)
	}
	close(j.changed)
	j.changed = make(chan struct{})
	return nil
}

// encode makes the entry's line, shortening what no person would read anyway.
func encode(d api.Decision) ([]byte, error) {
	line, err := json.Marshal(d)
	if err == nil && len(line) >= maxLine {
		d.Reason = fmt.Sprintf("%.4000s… (%d bytes)", d.Reason, len(d.Reason))
		d.Fields = nil
		line, err = json.Marshal(d)
	}
	if err != nil {
		return nil, fmt.Errorf("journal decision %q of service %s: %w", d.Event, d.Service, err)
	}
	return append(line, '\n'), nil
}

func (j *Journal) mirror(d api.Decision) {
	level := slog.LevelInfo
	switch d.Event {
	case api.EventRefuse, api.EventForced, api.EventDiverged, api.EventAlarm:
		level = slog.LevelWarn
	case api.EventPromoteStep:
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{slog.Uint64("seq", d.Seq), slog.String("event", d.Event)}
	if d.Service != "" {
		attrs = append(attrs, slog.String("service", d.Service))
	}
	if d.Term != 0 {
		attrs = append(attrs, slog.Uint64("term", d.Term))
	}
	if d.Took != 0 {
		attrs = append(attrs, slog.Duration("took", time.Duration(d.Took)))
	}
	for k, v := range d.Fields {
		attrs = append(attrs, slog.String(k, v))
	}
	j.opts.Log.LogAttrs(context.Background(), level, d.Reason, attrs...)
}

// appendLocked writes one line durably. When it fails the line is not there, or
// the file is given up until its end was found again.
func (j *Journal) appendLocked(line []byte) error {
	if j.f == nil {
		if err := j.resume(); err != nil {
			return err
		}
	}
	if j.size > 0 && j.size+int64(len(line)) > j.opts.MaxSize/segments {
		if err := j.rotateLocked(); err != nil {
			return err
		}
	}
	_, err := j.f.WriteAt(line, j.size)
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		// After a failed fsync the kernel may have dropped the pages: what is in
		// the file can be known only by reading it anew.
		err = errors.Join(err, j.f.Truncate(j.size), j.f.Close())
		j.f = nil
		return err
	}
	j.size += int64(len(line))
	return nil
}

// Close ends the followers, waits for them, and closes the files. It may be called twice.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	close(j.done)
	var err error
	if j.f != nil {
		err = j.f.Close()
	}
	j.mu.Unlock()
	j.wg.Wait()
	return errors.Join(err, j.lock.Close())
}

var _ io.Closer = (*Journal)(nil)
