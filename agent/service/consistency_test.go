package service

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// execs is a Runtime that runs commands.
type execs struct {
	Runtime
	ran  []string
	fail string
}

func (e *execs) Exec(ctx context.Context, container string, command []string) error {
	line := container + " " + strings.Join(command, " ")
	e.ran = append(e.ran, line)
	if _, bounded := ctx.Deadline(); !bounded || ctx.Err() != nil {
		return errors.New("without its own time")
	}
	if line == e.fail {
		return errors.New("code 1")
	}
	return nil
}

type still struct{ Processes }

func (still) Freezer(string, []string, time.Duration) replication.Freezer { return frozenFor{} }

type frozenFor struct{}

func (frozenFor) Freeze(context.Context) (func() error, error) {
	return func() error { return nil }, nil
}

// What undoes before-capture runs whatever happens, also when the agent is told to
// stop in between, and a failure of either says which and what to do.
func TestHooks(t *testing.T) {
	spec := api.Spec{
		Service: "db", Containers: []string{"db"}, Consistency: api.ConsistencyHooks,
		BeforeCapture: []string{"db", "flush", "-all"}, AfterCapture: []string{"db", "resume"},
	}
	both := []string{"db flush -all", "db resume"}
	for _, fail := range []string{"", "db flush -all", "db resume"} {
		t.Run("fails: "+fail, func(t *testing.T) {
			e := &execs{fail: fail}
			s := &Service{name: "db", Options: Options{Runtime: e, Procs: still{}}}
			var q replication.SealRequest
			s.consistently(&q, spec)
			if q.Freezer == nil || q.Loose {
				t.Error("hooks without a freeze")
			}
			ctx, cancel := context.WithCancel(t.Context())
			resume, err := q.Quiesce(ctx)
			cancel()
			if err == nil {
				err = resume()
			}
			if !slices.Equal(e.ran, both) {
				t.Errorf("run were %q", e.ran)
			}
			if (err != nil) != (fail != "") {
				t.Errorf("error %v", err)
			}
			if fail != "" && !strings.Contains(err.Error(), "-capture of service db") {
				t.Errorf("it does not say what failed: %v", err)
			}
		})
	}
}

func TestConsistencyNone(t *testing.T) {
	s := &Service{name: "db", Options: Options{Procs: still{}}}
	var q replication.SealRequest
	s.consistently(&q, api.Spec{Consistency: api.ConsistencyNone})
	if !q.Loose || q.Freezer != nil || q.Quiesce != nil {
		t.Errorf("%+v", q)
	}
	q = replication.SealRequest{}
	s.consistently(&q, api.Spec{}) // as an agent of before kept it
	if q.Loose || q.Freezer == nil || q.Quiesce != nil {
		t.Errorf("%+v", q)
	}
}
