package drill

import (
	"slices"
	"time"

	"github.com/understudy-ha/understudy/agent/probe"
)

// Names of phases that every method can have. Steps of the agent are "agent: …".
const (
	PhaseLastAnswer     = "last answer"
	PhaseHarm           = "harm"
	PhaseHarmDone       = "harm done"
	PhaseTokenLost      = "corosync: token lost"
	PhaseMembership     = "corosync: new membership"
	PhaseNodeLost       = "pacemaker: node lost"
	PhaseFenceRequested = "fencing requested"
	PhaseFenceDone      = "fencing done"
	PhasePromoteOrdered = "pacemaker: promote ordered"
	PhasePromoted       = "pacemaker: promoted"
	PhaseActive         = "seen active"
	PhaseFirstAnswer    = "first answer"
	PhaseProtected      = "protected again"
)

// Phase is a moment of a round and who told of it.
type Phase struct {
	Name    string    `json:"name"`
	At      time.Time `json:"at"`
	SinceMS float64   `json:"since_harm_ms"`
	Source  string    `json:"source"` // probe, drill, corosync, pacemaker, agent
	Detail  string    `json:"detail,omitempty"`
}

// Round is one rehearsal. Figures are in milliseconds; nil means that no source told.
type Round struct {
	Round    int       `json:"round"`
	Victim   string    `json:"victim"`
	Survivor string    `json:"survivor"`
	HarmAt   time.Time `json:"harm_at"`

	OutageMS   *float64 `json:"outage_ms"`   // for the client
	DetectMS   *float64 `json:"detect_ms"`   // harm → fencing requested
	FenceMS    *float64 `json:"fence_ms"`    // requested → done
	TakeoverMS *float64 `json:"takeover_ms"` // fencing done (without fencing: harm) → first answer
	RPOMS      *float64 `json:"rpo_ms"`      // age, at the harm, of the data that the survivor went on with
	Lost       *int     `json:"lost_acked_writes"`
	RestoreMS  *float64 `json:"restore_ms"` // harm → protected again

	Generation string        `json:"generation,omitempty"` // that the survivor went on with
	Phases     []Phase       `json:"phases"`
	Diverged   []string      `json:"diverged,omitempty"` // archived on the former active
	Probe      *probe.Result `json:"probe,omitempty"`
	Notes      []string      `json:"notes,omitempty"` // what a reader must know of the figures
	Error      string        `json:"error,omitempty"` // the round failed
}

// Report is a whole drill.
type Report struct {
	Kind     string    `json:"kind"` // node-loss
	Service  string    `json:"service"`
	Method   string    `json:"method"`
	Software string    `json:"software,omitempty"` // understudy's version
	Started  time.Time `json:"started"`
	Ended    time.Time `json:"ended"`
	Rounds   []Round   `json:"rounds"`
	Figures  Figures   `json:"figures"`
}

// Figures are the rounds' figures side by side, without those of failed rounds.
type Figures struct {
	OutageMS        []float64 `json:"outage_ms"`
	DetectMS        []float64 `json:"detect_ms"`
	FenceMS         []float64 `json:"fence_ms"`
	TakeoverMS      []float64 `json:"takeover_ms"`
	RPOMS           []float64 `json:"rpo_ms"`
	LostAckedWrites []int     `json:"lost_acked_writes"`
	RestoreMS       []float64 `json:"restore_ms"`
}

// Failed says whether any round failed.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.Rounds, func(x Round) bool { return x.Error != "" })
}

func figures(rounds []Round) Figures {
	f := Figures{
		OutageMS: []float64{}, DetectMS: []float64{}, FenceMS: []float64{}, TakeoverMS: []float64{},
		RPOMS: []float64{}, LostAckedWrites: []int{}, RestoreMS: []float64{},
	}
	for _, r := range rounds {
		if r.Error != "" {
			continue
		}
		collect(&f.OutageMS, r.OutageMS)
		collect(&f.DetectMS, r.DetectMS)
		collect(&f.FenceMS, r.FenceMS)
		collect(&f.TakeoverMS, r.TakeoverMS)
		collect(&f.RPOMS, r.RPOMS)
		collect(&f.LostAckedWrites, r.Lost)
		collect(&f.RestoreMS, r.RestoreMS)
	}
	return f
}

func collect[T any](list *[]T, v *T) {
	if v != nil {
		*list = append(*list, *v)
	}
}

// Median of the values; 0 of none.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

func millis(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}
