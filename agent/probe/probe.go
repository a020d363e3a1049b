package probe

import (
	"context"
	"sync"
	"time"
)

// Run is a measurement under way.
type Run struct {
	opt    Options
	cancel context.CancelFunc
	done   chan struct{} // closed when everything has ended
	result Result        // valid once done is closed

	emitMu sync.Mutex // one event at a time

	mu       sync.Mutex // guards what follows
	track    *tracker
	inFlight []*request // oldest first
	settled  time.Time  // UntilRecovered: when to end; zero: no outage has ended yet

	writes *writeRun // nil: none
}

type request struct {
	issued time.Time
	cancel context.CancelFunc
}

// Start begins a measurement. It ends by itself as the options say, when ctx ends, or on Stop.
func Start(ctx context.Context, o Options) (*Run, error) {
	o.setDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	now := time.Now()
	r := &Run{opt: o, cancel: cancel, done: make(chan struct{}), track: newTracker(now, o.Every, o.MinOutage)}
	if o.Writes != nil {
		r.writes = newWriteRun(*o.Writes, now)
	}
	r.emit(Event{Event: EventStarted, At: now})
	go r.run(ctx, now)
	return r, nil
}

// Done is closed when the measurement has ended and its result is there.
func (r *Run) Done() <-chan struct{} { return r.done }

// Stop ends the measurement and returns its result; it may be called more than once. ctx bounds
// only the wait: reading back the writes has its own limit, Writes.VerifyFor.
func (r *Run) Stop(ctx context.Context) (Result, error) {
	r.cancel()
	select {
	case <-r.done:
		return r.result, nil
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// Wait returns the result once the measurement has ended by itself.
func (r *Run) Wait() Result {
	<-r.done
	return r.result
}

// Snapshot is where the measurement stands.
func (r *Run) Snapshot() Snapshot {
	r.mu.Lock()
	t, now := r.track, time.Now()
	s := Snapshot{
		At: now, Requests: t.ok + t.failed, OK: t.ok, Failures: t.failed,
		Answering: t.answered && now.Sub(t.lastOK) < t.min, Outages: len(t.outages),
	}
	if t.answered {
		s.LastOK = t.lastOK
	}
	r.mu.Unlock()
	if r.writes != nil {
		s.Acked = r.writes.acked()
	}
	return s
}

func (r *Run) run(ctx context.Context, start time.Time) {
	defer close(r.done)
	defer r.cancel()
	// Requests outlive the end of the schedule by nothing: they are cancelled with ctx and waited for.
	var wg sync.WaitGroup
	if r.writes != nil {
		wg.Go(func() { r.writes.run(ctx) })
	}
	wg.Go(func() { r.ticks(ctx) })
	r.schedule(ctx, start, &wg)
	end := time.Now()
	r.cancel()
	wg.Wait()

	r.mu.Lock()
	res := r.resultLocked(start, end)
	r.mu.Unlock()
	if r.writes != nil {
		res.Writes = r.writes.finish(end)
	}
	r.result = res
}

// schedule issues a request at every multiple of Every, however the earlier ones fare. Where
// the client itself was late, the missed ones are left out and the lateness is recorded.
func (r *Run) schedule(ctx context.Context, start time.Time, wg *sync.WaitGroup) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := start
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		if r.over(now, start) {
			return
		}
		r.issue(ctx, now, now.Sub(next), wg)
		next = next.Add(r.opt.Every)
		if late := now.Sub(next); late > 0 {
			next = next.Add(late.Truncate(r.opt.Every) + r.opt.Every)
		}
		timer.Reset(time.Until(next))
	}
}

func (r *Run) over(now, start time.Time) bool {
	if r.opt.For > 0 && now.Sub(start) >= r.opt.For {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opt.UntilRecovered && !r.settled.IsZero() && now.After(r.settled)
}

func (r *Run) issue(ctx context.Context, now time.Time, late time.Duration, wg *sync.WaitGroup) {
	rctx, cancel := context.WithTimeout(ctx, r.opt.Timeout)
	q := &request{issued: now, cancel: cancel}
	r.mu.Lock()
	r.track.late(late)
	overdue := r.track.overdue(now)
	if len(r.inFlight) >= r.opt.MaxInFlight {
		r.inFlight[0].cancel() // the oldest: a new one says more about now
	}
	r.inFlight = append(r.inFlight, q)
	r.mu.Unlock()
	if overdue != nil {
		r.emit(Event{Event: EventOutageBegin, At: now, Outage: overdue})
	}
	wg.Go(func() {
		defer cancel()
		err := r.opt.Target.Once(rctx)
		r.ended(ctx, q, err)
	})
}

// ended takes the request's end time inside the lock: the tracker must see times in order.
func (r *Run) ended(ctx context.Context, q *request, err error) {
	r.mu.Lock()
	now := time.Now()
	for i, p := range r.inFlight {
		if p == q {
			r.inFlight = append(r.inFlight[:i], r.inFlight[i+1:]...)
			break
		}
	}
	if err != nil {
		if ctx.Err() == nil { // cut short by the end of the measurement: says nothing
			r.track.failure(q.issued, err)
		}
		r.mu.Unlock()
		return
	}
	o := r.track.success(q.issued, now)
	if o != nil && !o.FromStart && r.settled.IsZero() {
		r.settled = now.Add(r.opt.SettleFor)
	}
	r.mu.Unlock()
	if o != nil {
		r.emit(Event{Event: EventOutageEnd, At: now, Outage: o})
	}
}

// ticks reports progress for whoever watches.
func (r *Run) ticks(ctx context.Context) {
	if r.opt.OnEvent == nil {
		return
	}
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			s := r.Snapshot()
			r.emit(Event{Event: EventTick, At: now, Snapshot: &s})
		}
	}
}

func (r *Run) emit(e Event) {
	if r.opt.OnEvent == nil {
		return
	}
	r.emitMu.Lock()
	defer r.emitMu.Unlock()
	r.opt.OnEvent(e)
}

func (r *Run) resultLocked(start, end time.Time) Result {
	t := r.track
	res := Result{
		Target: r.opt.Target.String(), Started: start, Ended: end,
		EveryMS: millis(r.opt.Every), TimeoutMS: millis(r.opt.Timeout), MinOutageMS: millis(r.opt.MinOutage),
		Outages: t.finish(end), LatencyMS: t.latency.latency(),
		Requests: t.ok + t.failed, OK: t.ok, Failures: t.failed,
	}
	res.FailuresOutside = t.outside
	for _, o := range res.Outages {
		res.WorstMS = max(res.WorstMS, o.MS)
		res.TotalMS += o.MS
	}
	return res
}
