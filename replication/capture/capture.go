// Package capture reads a service's volumes at one instant. What is at rest is read first; then the
// containers are frozen while what changed since is found by stat and set aside; after the thaw
// the rest is hashed. Where there are no hints, an unchanged file costs one lstat.
package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/tree"
)

// ErrFreezeTooLong says that FreezeMax passed before everything changed was set aside.
// The containers run again and the capture is dropped; try again: the next ones
// leave less to be done in the freeze.
var ErrFreezeTooLong = errors.New("the freeze took too long")

// ErrBusy says that, without a freezer, files changed while they were read and did not
// come to rest. Try again.
var ErrBusy = errors.New("files change while they are read")

// Freezer stops the service's containers; see there.
type Freezer = replication.Freezer

// Sink takes content. store.PackWriter is one. Called from several goroutines.
type Sink interface {
	Has(h replication.Hash) bool
	// Put takes a chunk, and is done with data when it returns. It lies in from's clone at offset at, where it stays until then; nil: it may change.
	Put(h replication.Hash, data []byte, from *tree.Twin, at int64) error
}

// Volume is a tree to capture.
type Volume struct {
	Name     string
	Path     string // the tree's root: a volume's _data
	StageDir string // on the same file system, outside of Path; owned by capture, emptied at each
}

// Options of a Capturer. The zero value is good.
type Options struct {
	Logger *slog.Logger     // nil: discards
	Hook   durable.Hook     // tests
	Now    func() time.Time // nil: time.Now; the clock that files' ctimes come from
	Settle time.Duration    // how long a file that changed is looked at again; 0: tree.Settle
}

// Capturer captures; one capture of a volume at a time.
type Capturer struct {
	log     *slog.Logger
	hook    durable.Hook
	now     func() time.Time
	settle  time.Duration
	pending pending
	mapped  map[string]map[uint64]string // by volume, see volume.mapped
	shadows map[string]*shadows          // by volume
	layouts layouts
	sparing time.Time // until then little is left to do in freezes, see job.spare
}

// New makes a Capturer.
func New(o Options) *Capturer {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Settle == 0 {
		o.Settle = tree.Settle
	}
	return &Capturer{log: o.Logger, hook: o.Hook, now: o.Now, settle: o.Settle, mapped: map[string]map[uint64]string{}, shadows: map[string]*shadows{}}
}

// Close gives back what is kept of large files. The Capturer can go on being used.
func (c *Capturer) Close() error {
	var errs []error
	for _, ss := range c.shadows {
		errs = append(errs, ss.keepOnly(func(*replication.Entry) bool { return false }))
	}
	return errors.Join(errs...)
}

// forgetOthers gives back what is kept of volumes that are captured no more.
func (c *Capturer) forgetOthers(vs []Volume) error {
	var errs []error
	for name, ss := range c.shadows {
		if !slices.ContainsFunc(vs, func(v Volume) bool { return v.Name == name }) {
			errs = append(errs, ss.keepOnly(func(*replication.Entry) bool { return false }))
			delete(c.shadows, name)
			delete(c.mapped, name)
		}
	}
	return errors.Join(errs...)
}

// Request of a capture.
type Request struct {
	Volumes   []Volume
	Base      *replication.Manifest // generation to compare with; nil: everything is new
	Index     *tree.Index           // what Base looked like to stat; nil, or of another generation: everything is read
	Freezer   Freezer               // nil: nothing is frozen (containers are stopped)
	FreezeMax time.Duration         // 0: no bound
	Froze     func(time.Duration)   // told how long containers stood still, once for each freeze, also of a capture that fails or finds nothing; nil: nobody is told
	Loose     bool                  // containers run although there is no Freezer: what moves is taken as it is after some tries
	Quiesce   replication.Quiesce   // before the freeze; nil: nothing
	Sink      Sink
	Content   func(replication.Hash) ([]byte, error) // of Base's chunks; nil: cannot be had
	Hints     Hints                                  // where trees changed; nil: everything is looked at
	Processes func() ([]int, error)                  // that may have files mapped: those change without a hint; nil: none
}

// Result of a capture. Delta is from Base, nil without one. Index describes the captured trees and belongs to the
// generation made of Volumes: set Index.ID when that is committed, and keep it
// for the next capture. With ErrUnchanged it carries Base's ID and may replace
// the old one at once.
type Result struct {
	Volumes   []replication.Volume
	Delta     *replication.Delta
	Index     *tree.Index
	Freeze    time.Duration // how long containers stood still
	Changed   int           // entries that differ from Base, removals included
	BytesRead int64         // content read and hashed
	Cloned    int           // files set aside by reflink
	Copied    int           // files set aside by copying, within the freeze
	Moved     int           // Loose only: files that changed while they were taken
	Resume    error         // of Quiesce's resume
}

// attempts of a capture whose files change under it.
const attempts = 3

// errMoved: a file changed or vanished between being found and being read.
var errMoved = errors.New("it changed while it was read")

// Capture does one. It returns replication.ErrUnchanged with a Result that has only Index
// when there is nothing that Base does not have, ErrFreezeTooLong, ErrBusy.
// The stage is empty when it returns, and the containers run.
func (c *Capturer) Capture(ctx context.Context, r Request) (*Result, error) {
	for try := 1; ; try++ {
		res, err := c.once(ctx, r)
		if !errors.Is(err, errMoved) {
			return res, err
		}
		if try == attempts {
			return nil, fmt.Errorf("%w, %d times in a row: %w", ErrBusy, try, err)
		}
		c.log.Debug("a capture starts over", "try", try, "error", err)
	}
}

// once is the order of a capture: look; read what is at rest; ask the application; freeze; look
// again and set aside; thaw; read.
func (c *Capturer) once(ctx context.Context, r Request) (res *Result, err error) {
	j := &job{c: c, r: r, res: &Result{}}
	defer func() { err = errors.Join(err, j.close()) }()
	if err := j.open(); err != nil {
		return nil, err
	}
	if err := j.look(ctx); err != nil {
		return nil, err
	}
	unchanged, err := j.unchanged(ctx)
	if err != nil {
		return nil, err
	}
	if unchanged && r.Quiesce == nil {
		return &Result{Index: j.index(j.base())}, replication.ErrUnchanged
	}
	before := j.readQuiet
	if c.now().Before(c.sparing) {
		before = j.spare
	}
	if err := before(ctx); err != nil {
		return nil, err
	}
	if unchanged, err = j.take(ctx, unchanged); err != nil {
		if errors.Is(err, ErrFreezeTooLong) {
			c.sparing = c.now().Add(spareFor)
		}
		return nil, err
	}
	if unchanged {
		return &Result{Index: j.index(j.base()), Resume: j.res.Resume}, replication.ErrUnchanged
	}
	if err := j.read(ctx); err != nil {
		return nil, err
	}
	if j.res.Changed == 0 && r.Base != nil {
		return &Result{Index: j.index(j.base()), Freeze: j.res.Freeze, BytesRead: j.bytes.Load(), Resume: j.res.Resume}, replication.ErrUnchanged
	}
	j.res.Index, j.res.BytesRead = j.index(replication.ID{}), j.bytes.Load()
	return j.res, nil
}

// take looks again and sets aside, with the application ready for it and everything frozen. An application
// is asked also where no file has changed: it may hold in memory what has. Where it wrote nothing then either,
// nothing is frozen.
func (j *job) take(ctx context.Context, was bool) (unchanged bool, err error) {
	if j.r.Quiesce != nil {
		resume, err := j.r.Quiesce(ctx)
		if err != nil {
			return false, fmt.Errorf("preparing the application for a capture: %w", err)
		}
		defer func() { j.res.Resume = resume() }()
	}
	if was {
		if err := j.look(ctx); err != nil {
			return false, err
		}
		if unchanged, err = j.unchanged(ctx); unchanged || err != nil {
			return unchanged, err
		}
	}
	j.res.Freeze, err = frozen(ctx, j.r.Freezer, j.r.FreezeMax, j.c.hook, func(ctx context.Context) error {
		if err := j.look(ctx); err != nil {
			return err
		}
		return j.setAside(ctx)
	})
	if j.res.Freeze > 0 && j.r.Froze != nil {
		j.r.Froze(j.res.Freeze)
	}
	return false, err
}
