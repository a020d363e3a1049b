package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
)

func readyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ready SERVICE",
		Short: "Would a failover succeed now?",
		Long: `Say whether a failover of the service would succeed now, and if not, why not.

The exit code is 0 when it would and 3 when it would not.`,
		Example: "  understudy ready registry && understudy switchover registry",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := ask(c.Context(), func(ctx context.Context) (api.Readiness, error) {
				return a.client().Ready(ctx, args[0])
			})
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(r)
			} else {
				a.printReady(r)
			}
			if err == nil && !r.Ready {
				return withCode(exitNotReady, errSaid)
			}
			return err
		},
	}
}

func (a *app) printReady(r api.Readiness) {
	defer func() {
		for _, c := range r.Caveats {
			fmt.Fprintf(a.out, "  note: %s\n", c)
		}
	}()
	if r.Ready {
		fmt.Fprintf(a.out, "ready: if %s failed now, %s would take over %s and lose the last %s\n", r.Active, r.Standby, r.Service, short(time.Duration(r.RPO)))
		return
	}
	fmt.Fprintf(a.out, "not ready: a failover of %s would not succeed now\n", r.Service)
	for _, b := range r.Blockers {
		fmt.Fprintf(a.out, "  - %s\n", b)
	}
}

// short is a duration with as many digits as a person wants.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + short(-d)
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
