package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress tells of long work on standard error: a bar on a terminal, with lines
// above it; plain lines elsewhere.
type progress struct {
	w     io.Writer
	bars  *mpb.Progress // nil: plain lines
	bar   *mpb.Bar
	total time.Duration
	once  sync.Once
}

// newProgress shows work that takes total; 0 is work that ends when it ends.
func (a *app) newProgress(name string, total time.Duration) *progress {
	p := &progress{w: a.err, total: total}
	if !isTerminal(a.err) {
		return p
	}
	p.bars = mpb.New(mpb.WithOutput(a.err), mpb.WithWidth(40), mpb.WithAutoRefresh())
	prepend := mpb.PrependDecorators(decor.Name(name+" "), decor.Elapsed(decor.ET_STYLE_GO))
	if total > 0 {
		p.bar = p.bars.AddBar(int64(total), prepend, mpb.BarRemoveOnComplete())
	} else {
		p.bar = p.bars.AddSpinner(0, prepend, mpb.BarRemoveOnComplete())
	}
	return p
}

// line prints a line above the bar.
func (p *progress) line(format string, args ...any) {
	text := fmt.Sprintf(format+"\n", args...)
	if p.bars != nil {
		_, _ = p.bars.Write([]byte(text))
		return
	}
	_, _ = io.WriteString(p.w, text)
}

// at moves the bar.
func (p *progress) at(elapsed time.Duration) {
	if p.bar != nil && p.total > 0 {
		p.bar.SetCurrent(int64(min(elapsed, p.total-1)))
	}
}

// close takes the bar away; it may be called twice.
func (p *progress) close() {
	p.once.Do(func() {
		if p.bars != nil {
			p.bar.Abort(true)
			p.bars.Wait()
		}
	})
}
