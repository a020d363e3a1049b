package podman

import (
	"context"
	"strconv"
	"time"

	"github.com/containers/podman/v5/pkg/bindings/system"
	"github.com/containers/podman/v5/pkg/domain/entities/types"
)

// EventType is what happened to a container.
type EventType string

// The events that are passed on. Resync says that events may have been missed
// (at the start, after a reconnection, when the reader was slow): look again.
const (
	EventResync  EventType = "resync"
	EventCreate  EventType = "create"
	EventInit    EventType = "init"
	EventStart   EventType = "start"
	EventDie     EventType = "died"
	EventStop    EventType = "stop"
	EventKill    EventType = "kill"
	EventPause   EventType = "pause"
	EventUnpause EventType = "unpause"
	EventRemove  EventType = "remove"
	EventRename  EventType = "rename"
	EventHealth  EventType = "health_status"
)

// Event of a container; the fields but Type are empty for a Resync.
type Event struct {
	Type      EventType
	Container string // name
	ID        string
	At        time.Time
	Health    HealthStatus // of EventHealth
	ExitCode  int          // of EventDie
}

// Reconnection waits this long at first and at most; a stream that lived for
// longer than the maximum starts over.
const (
	reconnectSoonest = 100 * time.Millisecond
	reconnectLatest  = 5 * time.Second
	eventBuffer      = 256
)

// Events passes on what happens to containers until ctx is done, then closes the
// channel. It reconnects by itself; the first event of every connection is a
// Resync. A reader that falls behind loses events and gets a Resync for them.
func (c *Client) Events(ctx context.Context) <-chan Event {
	out := make(chan Event, eventBuffer)
	if !c.spawn(func() { defer close(out); c.follow(ctx, out) }) {
		close(out)
	}
	return out
}

// follow keeps one stream after the other open.
func (c *Client) follow(ctx context.Context, out chan<- Event) {
	for wait := reconnectSoonest; ctx.Err() == nil; {
		began := time.Now()
		err := c.stream(ctx, out)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > reconnectLatest {
			wait = reconnectSoonest
		}
		c.log.Debug("event stream ended: reconnecting", "error", err, "wait", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(wait*2, reconnectLatest)
	}
}

// stream opens one event stream and passes its events on until it ends.
func (c *Client) stream(ctx context.Context, out chan<- Event) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The stream lives long, but its beginning must come in time.
	late := time.AfterFunc(c.opts.Timeout, cancel)
	events := make(chan types.Event)
	err := do(unbounded(ctx), c, "follow Podman's events", func(ctx context.Context) error {
		return c.open(ctx, cancel, events)
	})
	if err != nil {
		return err
	}
	late.Stop()
	s := sender{out: out}
	s.send(Event{Type: EventResync})
	for e := range events {
		if ev, ok := convert(e); ok {
			s.send(ev)
		}
	}
	return nil
}

// open starts the bindings' reader. It ends only by closing its channel, and
// hangs for ever if nobody reads until then: the drain below always does, and
// passes on to events what somebody still waits for.
func (c *Client) open(ctx context.Context, cancel context.CancelFunc, events chan<- types.Event) error {
	in := make(chan types.Event, eventBuffer)
	follow := true
	err := system.Events(ctx, in, nil, &system.EventsOptions{
		Stream: &follow, Filters: map[string][]string{"type": {"container"}},
	})
	if err != nil {
		return err
	}
	drain := func() {
		defer close(events)
		for e := range in {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		}
	}
	if !c.spawn(drain) {
		cancel()
		drain()
		return ErrClosed
	}
	return nil
}

// sender never blocks: what finds no room is made up for by a Resync.
type sender struct {
	out  chan<- Event
	lost bool
}

func (s *sender) send(e Event) {
	if s.lost {
		e = Event{Type: EventResync}
	}
	select {
	case s.out <- e:
		s.lost = false
	default:
		s.lost = true
	}
}

func convert(e types.Event) (Event, bool) {
	out := Event{
		Type: EventType(e.Action), ID: e.Actor.ID, Container: e.Actor.Attributes["name"],
		At: time.Unix(0, e.TimeNano), Health: HealthStatus(e.HealthStatus),
	}
	if e.TimeNano == 0 {
		out.At = time.Unix(e.Time, 0)
	}
	switch out.Type {
	case "die":
		out.Type = EventDie
		fallthrough
	case EventDie:
		out.ExitCode, _ = strconv.Atoi(e.Actor.Attributes["containerExitCode"])
		return out, true
	case EventCreate, EventInit, EventStart, EventStop, EventKill, EventPause, EventUnpause, EventRemove, EventRename:
		return out, true
	case EventHealth:
		if out.Health == "" {
			out.Health = HealthStatus(e.Actor.Attributes["health_status"])
		}
		return out, true
	}
	return Event{}, false
}
