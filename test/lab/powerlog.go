package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Phases of a power verb.
const (
	PhaseAsked  = "asked"  // somebody wants it; for "off" by the lab: the instant before the cord is pulled
	PhaseDone   = "done"   // it is so; for "off": no process of the node is left and its cable is cut
	PhaseFailed = "failed" // it is not so, Error says why
)

// PowerEvent is one line of the power log (JSON lines): a power verb (off, boot, reboot, pause,
// resume, cut, heal, status) asked for or done.
type PowerEvent struct {
	// TimeNS is the wall clock in nanoseconds since 1970; all nodes share the machine's clock.
	TimeNS int64  `json:"time_ns"`
	Node   string `json:"node"` // or the ends of a cable, as n1,n2 or n1>n2
	Verb   string `json:"verb"`
	Phase  string `json:"phase"`
	// By is "lab" for the user of the lab and "fence:NODE" for a fence agent that ran on NODE.
	By    string `json:"by"`
	Error string `json:"error,omitempty"`
}

// Time is when it happened.
func (e PowerEvent) Time() time.Time { return time.Unix(0, e.TimeNS) }

// powerLog appends to the lab's power log; several processes may do so at once.
type powerLog struct{ path string }

func (p powerLog) add(e PowerEvent) error {
	if e.TimeNS == 0 {
		e.TimeNS = time.Now().UnixNano()
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(p.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("power log: %w", err)
	}
	// One write, so that lines of several writers do not mix.
	if _, err := f.Write(append(b, '\n')); err != nil {
		f.Close()
		return fmt.Errorf("power log: %w", err)
	}
	return f.Close()
}

// done records the outcome of verb.
func (p powerLog) done(node, verb, by string, err error) {
	e := PowerEvent{Node: node, Verb: verb, Phase: PhaseDone, By: by}
	if err != nil {
		e.Phase, e.Error = PhaseFailed, err.Error()
	}
	_ = p.add(e)
}

func (p powerLog) read() ([]PowerEvent, error) {
	b, err := os.ReadFile(p.path)
	if err != nil {
		return nil, fmt.Errorf("power log: %w", err)
	}
	var all []PowerEvent
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		var e PowerEvent
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			return all, fmt.Errorf("power log: %w", err)
		}
		all = append(all, e)
	}
	return all, nil
}
