package probe

import "time"

// Outage is a time without an answer, as the client saw it.
type Outage struct {
	Start       time.Time `json:"start"` // the last success before it
	End         time.Time `json:"end"`   // the first success after it; when open: when the measurement ended
	MS          float64   `json:"ms"`
	Failures    int       `json:"failures"`              // requests that failed in it
	Open        bool      `json:"open,omitempty"`        // it had not ended when the measurement did
	FromStart   bool      `json:"from_start,omitempty"`  // nothing had answered before it
	ClientLagMS float64   `json:"client_lag_ms"`         // how late the client itself was with a request meanwhile, at worst
	FirstError  string    `json:"first_error,omitempty"` // of a request in it
}

// Latency of successful requests, in milliseconds.
type Latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Result is what a measurement saw.
type Result struct {
	Target          string       `json:"target"`
	Started         time.Time    `json:"started"`
	Ended           time.Time    `json:"ended"`
	EveryMS         float64      `json:"every_ms"`
	TimeoutMS       float64      `json:"timeout_ms"`
	MinOutageMS     float64      `json:"min_outage_ms"`
	Requests        int          `json:"requests"` // that ended, well or not
	OK              int          `json:"ok"`
	Failures        int          `json:"failures"`
	FailuresOutside int          `json:"failures_outside"` // single failures with answers right before and after
	Outages         []Outage     `json:"outages"`
	WorstMS         float64      `json:"worst_outage_ms"`
	TotalMS         float64      `json:"total_outage_ms"`
	LatencyMS       Latency      `json:"latency_ms"`
	Writes          *WriteResult `json:"writes,omitempty"`
}

// Worst is the longest outage that had not ended by t, not counting what the client's own
// lateness explains; false where there is none. Drills ask for the one that their harm,
// done at t, caused: a client that stalled on a busy machine must not be taken for it.
func (r *Result) Worst(t time.Time) (Outage, bool) {
	var worst Outage
	found := false
	for _, o := range r.Outages {
		if o.End.After(t) && (!found || o.MS-o.ClientLagMS > worst.MS-worst.ClientLagMS) {
			worst, found = o, true
		}
	}
	return worst, found
}

// WriteResult is the fate of the numbered writes.
type WriteResult struct {
	Target         string   `json:"target"`
	Attempted      int      `json:"attempted"`
	Acked          int      `json:"acked"`
	Failed         int      `json:"failed"` // not acknowledged: may or may not be there
	Verified       bool     `json:"verified"`
	VerifyError    string   `json:"verify_error,omitempty"`
	Present        int      `json:"present"`         // of ours, at the end
	Lost           int      `json:"lost"`            // acknowledged, and not present
	LostNumbers    []int    `json:"lost_numbers"`    // the first MaxLostListed of them
	UnackedPresent int      `json:"unacked_present"` // never acknowledged, present all the same
	LongestGapMS   float64  `json:"longest_gap_ms"`  // between acknowledgements
	Outages        []Outage `json:"outages"`         // of writing
	LatencyMS      Latency  `json:"latency_ms"`
	FirstError     string   `json:"first_error,omitempty"`
}

// MaxLostListed bounds WriteResult.LostNumbers.
const MaxLostListed = 1000

// Snapshot is where a measurement stands.
type Snapshot struct {
	At        time.Time `json:"at"`
	Requests  int       `json:"requests"`
	OK        int       `json:"ok"`
	Failures  int       `json:"failures"`
	LastOK    time.Time `json:"last_ok"`
	Answering bool      `json:"answering"` // the newest answer is younger than MinOutage
	Outages   int       `json:"outages"`   // that have ended
	Acked     int       `json:"acked"`     // writes
}

// Event is something that happened during a measurement. The JSON form is one
// line of `understudy probe --events`.
type Event struct {
	Event    string    `json:"event"` // see the Event constants
	At       time.Time `json:"at"`
	Outage   *Outage   `json:"outage,omitempty"`
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	Result   *Result   `json:"result,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// Events of a measurement.
const (
	EventStarted     = "started"
	EventTick        = "tick"         // Snapshot; several a second
	EventOutageBegin = "outage-begin" // Outage, open
	EventOutageEnd   = "outage-end"   // Outage
	EventResult      = "result"       // Result; the last one
)

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
