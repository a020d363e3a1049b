package agent

import (
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
	queue chan queued
	done  chan struct{}
	once  sync.Once
}

// queued is an entry to write, or a mark that says when those before it are written.
type queued struct {
	entry api.Decision
	mark  chan struct{} // not an entry: closed when its turn comes
}

func newDecisions(j *journal.Journal) *decisions {
	d := &decisions{Journal: j, queue: make(chan queued, 256), done: make(chan struct{})}
	go func() {
		defer close(d.done)
		for q := range d.queue {
			if q.mark != nil {
				close(q.mark)
				continue
			}
			d.Journal.Record(q.entry)
		}
	}()
	return d
}

// Record queues an entry; it waits only when the disk is hundreds of entries behind.
func (d *decisions) Record(e api.Decision) { d.queue <- queued{entry: e} }

// Query waits for the entries that were recorded before it.
func (d *decisions) Query(service string, since time.Time, limit int) ([]api.Decision, error) {
	mark := make(chan struct{})
	d.queue <- queued{mark: mark}
	<-mark
	return d.Journal.Query(service, since, limit)
}

// Close writes what is queued. Nothing may be recorded after it.
func (d *decisions) Close() error {
	d.once.Do(func() { close(d.queue) })
	<-d.done
	return d.Journal.Close()
}
