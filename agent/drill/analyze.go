package drill

import (
	"slices"
	"time"
)

// analyze turns what was seen into figures. It runs on what there is, also of a round that failed.
func (r *round) analyze() {
	if r.HarmAt.IsZero() {
		return
	}
	r.phase(PhaseHarm, r.HarmAt, "drill", r.Method.Name()+" of "+r.Victim)
	if !r.activeAt.IsZero() {
		r.phase(PhaseActive, r.activeAt, "agent", r.Survivor+" says so; asked every 50 ms")
	}
	back := r.analyzeProbe()
	requested, wasRequested := r.first(PhaseFenceRequested)
	fenced, wasFenced := r.first(PhaseFenceDone)
	if wasRequested {
		r.DetectMS = millis(requested.Sub(r.HarmAt))
	}
	if wasRequested && wasFenced {
		r.FenceMS = millis(fenced.Sub(requested))
	}
	switch {
	case back.IsZero():
	case wasFenced:
		r.TakeoverMS = millis(max(0, back.Sub(fenced)))
	case !wasRequested && r.Run != nil: // the journals say that nobody was fenced
		r.TakeoverMS = millis(max(0, back.Sub(r.HarmAt)))
	}
	r.analyzeRPO()
	for i := range r.Phases {
		r.Phases[i].SinceMS = *millis(r.Phases[i].At.Sub(r.HarmAt))
	}
	slices.SortStableFunc(r.Phases, func(a, b Phase) int { return a.At.Compare(b.At) })
}

// analyzeProbe returns when the client had its first answer after the outage that the harm caused.
func (r *round) analyzeProbe() (back time.Time) {
	if r.Probe == nil {
		return time.Time{}
	}
	if w := r.Probe.Writes; w != nil && w.Verified {
		r.Lost = &w.Lost
	} else if w != nil {
		r.note("the lost writes are not known: %s", firstOf(w.VerifyError, "nothing to read them back with"))
	}
	o, found := r.Probe.Worst(r.HarmAt)
	if !found {
		zero := 0.0
		r.OutageMS = &zero
		r.note("the client saw no gap of %.0f ms or more", r.Probe.MinOutageMS)
		return time.Time{}
	}
	r.phase(PhaseLastAnswer, o.Start, "probe", "")
	r.OutageMS = &o.MS
	if o.ClientLagMS > o.MS/4 {
		r.note("the client itself was up to %.0f ms late in this outage: its machine was busy", o.ClientLagMS)
	}
	if o.Open {
		r.note("the outage had not ended when the measurement did")
		return time.Time{}
	}
	r.phase(PhaseFirstAnswer, o.End, "probe", "")
	return o.End
}

// analyzeRPO compares when the data was last known whole on the survivor with the harm,
// on the clock of the survivor, whose status FreshAt is part of.
func (r *round) analyzeRPO() {
	r.Generation = r.readied.Committed
	if r.readied.FreshAt == 0 || r.activeAt.IsZero() {
		return
	}
	fresh := time.Unix(0, r.readied.FreshAt).Add(-r.offset)
	r.RPOMS = millis(max(0, r.HarmAt.Sub(fresh)))
}

// first is the earliest phase of that name at or after the harm, with a little room for the clocks' grain.
func (r *round) first(name string) (time.Time, bool) {
	var at time.Time
	for _, p := range r.Phases {
		if p.Name == name && p.At.After(r.HarmAt.Add(-10*time.Millisecond)) && (at.IsZero() || p.At.Before(at)) {
			at = p.At
		}
	}
	return at, !at.IsZero()
}

func firstOf(s ...string) string {
	for _, x := range s {
		if x != "" {
			return x
		}
	}
	return ""
}
