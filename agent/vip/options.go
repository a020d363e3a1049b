package vip

import (
	"log/slog"
	"time"
)

// Defaults of [Options].
const (
	DefaultProbeCount      = 3
	DefaultProbeInterval   = 30 * time.Millisecond
	DefaultAnnounceRepeats = 5
	DefaultAnnounceSpacing = 1200 * time.Millisecond
)

// MinAnnounceSpacing is the least time between announcements of one address:
// an older Linux ignores a change within a second of the last
// (neigh/*/locktime), and a burst is then as good as its first frame.
const MinAnnounceSpacing = 1100 * time.Millisecond

// Options are a Manager's. The zero value is usable.
type Options struct {
	Logger *slog.Logger // nil: nothing is logged

	// ProbeCount probes are sent ProbeInterval apart, the last followed by the
	// same wait: Probe takes their product, about 90 ms by default, which is
	// part of every takeover. RFC 5227 and RFC 4862 ask for about a second per
	// probe. The price of the quick default: a holder that takes longer to
	// answer is not seen (asleep, swamped, or behind a switch port that is
	// still learning). Fencing is what makes sure that the former active is
	// gone; the probe is there for the third machine nobody thought of, and
	// for such a machine the default is long enough in nearly every network.
	ProbeCount    int
	ProbeInterval time.Duration

	// AnnounceRepeats more announcements follow the first, AnnounceSpacing
	// apart (raised to [MinAnnounceSpacing]). Negative: none.
	AnnounceRepeats int
	AnnounceSpacing time.Duration
	// AnnounceRefresh announces every so often for as long as the address is
	// held, for networks that forget; 0: never.
	AnnounceRefresh time.Duration

	kernel kernel // nil: the one we run on
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.ProbeCount <= 0 {
		o.ProbeCount = DefaultProbeCount
	}
	if o.ProbeInterval <= 0 {
		o.ProbeInterval = DefaultProbeInterval
	}
	if o.AnnounceRepeats == 0 {
		o.AnnounceRepeats = DefaultAnnounceRepeats
	}
	if o.AnnounceSpacing == 0 {
		o.AnnounceSpacing = DefaultAnnounceSpacing
	}
	o.AnnounceSpacing = max(o.AnnounceSpacing, MinAnnounceSpacing)
	if o.AnnounceRefresh > 0 {
		o.AnnounceRefresh = max(o.AnnounceRefresh, o.AnnounceSpacing)
	}
	if o.kernel == nil {
		o.kernel = linux{}
	}
	return o
}

// AddOptions are those of one Add.
type AddOptions struct {
	// Lease is how long the kernel keeps the address without [Manager.Renew],
	// in whole seconds, at least [MinLease]; 0: for ever. It takes the address
	// from a node whose agent hangs for good, so it must be longer than any
	// restart or upgrade of the agent.
	Lease time.Duration
}

// MinLease is the shortest lease: the kernel counts in seconds and looks now and then.
const MinLease = 3 * time.Second
