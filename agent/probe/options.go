package probe

import (
	"errors"
	"fmt"
	"time"
)

// Options say what to measure and how. Zero fields take the defaults.
type Options struct {
	Target      Target
	Every       time.Duration // between requests; default DefaultEvery
	Timeout     time.Duration // of one request; default DefaultTimeout
	MinOutage   time.Duration // a shorter gap without a failed request is latency; default DefaultMinOutage
	MaxInFlight int           // the oldest request is given up where a new one would exceed it; default: what Timeout and Every allow, at most 1024

	For            time.Duration // end after so long; 0: until stopped
	UntilRecovered bool          // end SettleFor after the first outage that ended
	SettleFor      time.Duration // default one second

	Writes *Writes // nil: none

	// OnEvent is called for each event, one at a time, from the measurement's own
	// goroutines: it must not block for long. The result is not among them.
	OnEvent func(Event)
}

// Defaults of Options.
const (
	DefaultEvery     = 5 * time.Millisecond
	DefaultTimeout   = time.Second
	DefaultMinOutage = 50 * time.Millisecond
	DefaultSettle    = time.Second
	maxInFlight      = 1024
)

func (o *Options) setDefaults() {
	setDefault(&o.Every, DefaultEvery)
	setDefault(&o.Timeout, DefaultTimeout)
	setDefault(&o.MinOutage, max(DefaultMinOutage, 4*o.Every))
	setDefault(&o.SettleFor, DefaultSettle)
	if o.MaxInFlight == 0 {
		o.MaxInFlight = min(int(o.Timeout/max(o.Every, time.Microsecond))+8, maxInFlight)
	}
	if o.Writes != nil {
		setDefault(&o.Writes.Every, DefaultWriteEvery)
		setDefault(&o.Writes.Timeout, DefaultWriteTimeout)
		setDefault(&o.Writes.VerifyFor, DefaultVerifyFor)
	}
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d == 0 {
		*d = v
	}
}

// Validate says what is wrong with the options, in words for the one who typed them.
func (o *Options) Validate() error {
	switch {
	case o.Target == nil:
		return errors.New("a probe needs a target: a URL or a command")
	case o.Every < time.Millisecond:
		return fmt.Errorf("one request every %s is more than a client can measure; write at least 1ms", o.Every)
	case o.Timeout < o.Every:
		return fmt.Errorf("a request's timeout (%s) is shorter than the time between requests (%s)", o.Timeout, o.Every)
	case o.MaxInFlight < 1:
		return fmt.Errorf("%d requests under way at once are too few; write at least 1", o.MaxInFlight)
	case o.For < 0 || o.MinOutage < 0:
		return errors.New("times are not negative")
	case o.Writes != nil && o.Writes.Writer == nil:
		return errors.New("writes need a place to write to")
	}
	return nil
}
