package gossip

import "time"

// clockSamples is how many exchanges are kept, clockAge for how long: a clock
// that was stepped shows within a minute.
const (
	clockSamples = 8
	clockAge     = time.Minute
	clockTimeout = 5 * time.Second // an answer later than that tells nothing
)

// sample is one exchange with a peer.
type sample struct {
	at     time.Time
	offset time.Duration // its clock minus ours
	rtt    time.Duration // the offset is known to ± half of it
}

// pending is a query under way.
type pending struct {
	id   uint64
	sent time.Time
}

// clock estimates a peer's clock from exchanges of four time stamps, as NTP
// does: of the last few, the one with the shortest round trip is the one with
// the least room for error.
type clock struct {
	pending pending
	samples []sample // oldest first
}

func (c *clock) asked(id uint64, now time.Time) { c.pending = pending{id: id, sent: now} }

// answered takes in an answer that came at now; false if it was not asked for
// or cannot be true.
func (c *clock) answered(a clockAnswer, now time.Time) bool {
	p := c.pending
	if p.id != a.ID || p.sent.IsZero() {
		return false
	}
	c.pending = pending{}
	// Monotonic: a step of our own clock during the exchange does no harm to it.
	elapsed := now.Sub(p.sent)
	inside := time.Duration(a.Sent - a.Received)
	rtt := elapsed - inside
	if inside < 0 || rtt < 0 || elapsed > clockTimeout {
		return false
	}
	middle := a.Received + int64(inside/2)
	offset := time.Duration(middle - p.sent.Add(elapsed/2).UnixNano())
	c.samples = append(c.samples, sample{at: now, offset: offset, rtt: rtt})
	if len(c.samples) > clockSamples {
		c.samples = c.samples[len(c.samples)-clockSamples:]
	}
	return true
}

// best is the sample to go by; false without a recent one.
func (c *clock) best(now time.Time) (sample, bool) {
	var out sample
	ok := false
	for _, s := range c.samples {
		if now.Sub(s.at) <= clockAge && (!ok || s.rtt <= out.rtt) {
			out, ok = s, true
		}
	}
	return out, ok
}
