package probe

import "time"

// tracker turns the ends of requests into outages. It is not safe for concurrent
// use: the prober holds its own lock, and hands over ends in the order in which it
// took their times, so that times never go back.
type tracker struct {
	min   time.Duration // a gap this long is an outage
	every time.Duration

	start    time.Time
	lastOK   time.Time // the start, until something answered
	answered bool

	// Of the gap since lastOK, which becomes an outage or not.
	failures int
	firstErr string
	lag      time.Duration
	begun    bool // announced as an outage

	ok, failed, outside int
	outages             []Outage
	latency             histogram
	longest             time.Duration
}

func newTracker(start time.Time, every, minOutage time.Duration) *tracker {
	return &tracker{min: minOutage, every: every, start: start, lastOK: start}
}

// success records an answer; it returns the outage that it ended, if it ended one.
func (t *tracker) success(issued, at time.Time) *Outage {
	t.ok++
	t.latency.add(at.Sub(issued))
	o := t.closeGap(at)
	t.lastOK, t.answered = at, true
	t.failures, t.firstErr, t.lag, t.begun = 0, "", 0, false
	return o
}

// failure records a request without an answer. One that was under way in the last outage
// (it hung, and timed out after others were answered again) belongs to that outage.
func (t *tracker) failure(issued time.Time, err error) {
	t.failed++
	if n := len(t.outages); n > 0 && issued.Before(t.outages[n-1].End) {
		t.outages[n-1].Failures++
		return
	}
	t.failures++
	if t.firstErr == "" {
		t.firstErr = err.Error()
	}
}

// late records that the client issued a request this much behind its schedule.
func (t *tracker) late(d time.Duration) { t.lag = max(t.lag, d) }

// overdue says once per gap that it has become an outage.
func (t *tracker) overdue(now time.Time) *Outage {
	if t.begun || now.Sub(t.lastOK) < t.min {
		return nil
	}
	t.begun = true
	o := t.gap(now)
	o.Open = true
	return &o
}

func (t *tracker) isOutage(length time.Duration) bool {
	if !t.answered && t.failures == 0 {
		return false // the first answer's own latency
	}
	return length >= t.min || (t.failures > 0 && length >= 2*t.every)
}

func (t *tracker) closeGap(at time.Time) *Outage {
	length := at.Sub(t.lastOK)
	if t.answered {
		t.longest = max(t.longest, length)
	}
	if !t.isOutage(length) {
		t.outside += t.failures
		return nil
	}
	o := t.gap(at)
	t.outages = append(t.outages, o)
	return &o
}

func (t *tracker) gap(end time.Time) Outage {
	return Outage{
		Start: t.lastOK, End: end, MS: millis(end.Sub(t.lastOK)),
		Failures: t.failures, FirstError: t.firstErr,
		FromStart: !t.answered, ClientLagMS: millis(t.lag),
	}
}

// finish returns all outages; the one under way at the end is open.
func (t *tracker) finish(at time.Time) []Outage {
	out := append([]Outage{}, t.outages...)
	length := at.Sub(t.lastOK)
	if length >= t.min && (t.answered || t.failures > 0) {
		o := t.gap(at)
		o.Open = true
		return append(out, o)
	}
	t.outside += t.failures
	t.failures = 0
	return out
}
