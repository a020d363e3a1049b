package agent

import (
	"context"
	"sync"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/journal"
)

// decisions puts the journal's fsync off the way of a takeover: entries are
// written in order by one goroutine. What must survive a kill is in the
// service's record; the journal is for people.
type decisions struct {
	*journal.Journal
	queue chan api.Decision
	done  chan struct{}
	once  sync.Once
}

func newDecisions(j *journal.Journal) *decisions {
	d := &decisions{Journal: j, queue: make(chan api.Decision, 256), done: make(chan struct{})}
	go func() {
		defer close(d.done)
		for e := range d.queue {
			d.Journal.Record(e)
		}
	}()
	return d
}

// Record queues an entry; it waits only when the disk is hundreds of entries behind.
func (d *decisions) Record(e api.Decision) { d.queue <- e }

// Query waits for the entries that were recorded before it.
func (d *decisions) Query(service string, since time.Time, limit int) ([]api.Decision, error) {
	for len(d.queue) > 0 {
		time.Sleep(time.Millisecond)
	}
	return d.Journal.Query(service, since, limit)
}

// Follow gives new entries.
func (d *decisions) Follow(ctx context.Context) <-chan api.Decision { return d.Journal.Follow(ctx) }

// Close writes what is queued. Nothing may be recorded after it.
func (d *decisions) Close() error {
	d.once.Do(func() { close(d.queue) })
	<-d.done
	return d.Journal.Close()
}
