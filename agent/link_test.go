package agent

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication/wire"
	"github.com/understudy-ha/understudy/replication/wire/wiretest"
)

var errDown = errors.New("the node is down")

// dialled is a link to a standby whose node can go down and come back, with a clock that
// goes when the test says so.
type dialled struct {
	*link
	t     *testing.T
	down  bool
	dials int
	clock time.Time

	dialling func() // called in each attempt
}

func newDialled(t *testing.T) *dialled {
	t.Helper()
	d := &dialled{t: t, down: true, clock: time.Unix(1_000_000, 0)}
	_, srv := standby(t)
	d.link = newLink(d.counted(srv))
	d.now = func() time.Time { return d.clock }
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// counted are the options to get there, with every attempt counted.
func (d *dialled) counted(srv *wiretest.Server) wire.ClientOptions {
	o := srv.Options
	o.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		d.dials++
		if d.dialling != nil {
			d.dialling()
		}
		if d.down {
			return nil, errDown
		}
		var real net.Dialer
		return real.DialContext(ctx, network, addr)
	}
	return o
}

// try uses the link, and says whether that dialled.
func (d *dialled) try(ctx context.Context) (dialled bool, err error) {
	before := d.dials
	err = d.use(ctx, func(*wire.Client) error { return nil })
	return d.dials > before, err
}

// fails uses the link, which must not work, and says whether that dialled.
func (d *dialled) fails(ctx context.Context) bool {
	d.t.Helper()
	dialled, err := d.try(ctx)
	if !errors.Is(err, errDown) {
		d.t.Fatalf("the link to a node that is down: %v", err)
	}
	return dialled
}

// pauseUntilDialled goes on by a millisecond at a time until the node is dialled again, and says how long that was.
func (d *dialled) pauseUntilDialled() time.Duration {
	d.t.Helper()
	began := d.clock
	for d.clock.Sub(began) <= 2*longestPause {
		if d.fails(d.t.Context()) {
			return d.clock.Sub(began)
		}
		d.clock = d.clock.Add(time.Millisecond)
	}
	d.t.Fatal("it is never tried again")
	return 0
}

// TestAPeerThatIsDownIsLeftAlone for longer each time, between half of a pause and all of
// it, up to the longest; a connection that was made begins anew.
func TestAPeerThatIsDownIsLeftAlone(t *testing.T) {
	d := newDialled(t)
	grow := func() {
		t.Helper()
		if !d.fails(t.Context()) {
			t.Fatal("the first attempt made none")
		}
		for want := firstPause; want < 4*longestPause; want *= 2 {
			most := min(want, longestPause)
			if got := d.pauseUntilDialled(); got < most/2 || got > most+time.Millisecond {
				t.Errorf("a pause of %s, not between %s and %s", got, most/2, most)
			}
		}
	}
	grow()
	d.down = false
	d.clock = d.clock.Add(longestPause)
	if dialled, err := d.try(t.Context()); !dialled || err != nil {
		t.Fatalf("the node is back: dialled %v, %v", dialled, err)
	}
	if dialled, err := d.try(t.Context()); dialled || err != nil {
		t.Errorf("the connection is there: dialled %v, %v", dialled, err)
	}
	d.down = true
	_ = d.client.Close()
	<-d.client.Done()
	grow()
}

// TestHurryDoesNotWait: a hand-over tries at once, and a caller who gives up makes nobody wait.
func TestHurryDoesNotWait(t *testing.T) {
	d := newDialled(t)
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		d.dialling = cancel
		if dialled, err := d.try(ctx); !dialled || err == nil {
			t.Fatalf("given up in the middle: dialled %v, %v", dialled, err)
		}
	}
	d.dialling = nil
	if !d.fails(t.Context()) {
		t.Error("callers who gave up made the next one wait")
	}
	if d.fails(t.Context()) {
		t.Error("it is tried again at once")
	}
	if !d.fails(context.WithValue(t.Context(), urgent{}, true)) {
		t.Error("a hand-over waits")
	}
}
