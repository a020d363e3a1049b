package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
)

// restoring is a restore as it was typed.
type restoring struct {
	*app
	flags                keptFlags
	generation, to       string
	inPlace, cancel, yes bool
	limit                time.Duration
}

// restoreCommand gets back what a node has kept.
func restoreCommand(a *app) *cobra.Command {
	r := &restoring{app: a}
	c := &cobra.Command{
		Use:   "restore SERVICE --generation GENERATION {--to DIR | --in-place}",
		Short: "Get back a kept or diverged generation: into a directory, or in place",
		Long: `Get back a generation that this node keeps, every byte verified by its hash: a committed one,
or a diverged one, which holds what a former active had written and nobody had received.
understudy history lists them.

--to DIR writes it into a directory, one folder per volume; the service and its volumes are
not touched, and no agent is needed. Interrupted, the same command goes on.

--in-place takes the service itself back. On the active node its containers end, what they wrote
is kept as a generation and pinned, the old content becomes the next generation, and the containers
start again; the address stays, and the standbys follow. On a standby, or where the
service is stopped, it is armed: the node is held at that generation and goes on from it as soon
as it is promoted (understudy switchover). --cancel takes that back.`,
		Example: `  understudy restore registry --generation 2.6.1 --to /root/lost
  understudy restore registry --generation 7.118 --in-place`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && r.generation == "" {
				r.generation = args[1]
			} else if len(args) == 2 {
				return usageError{errors.New("name one generation")}
			}
			if err := r.check(); err != nil {
				return usageError{err}
			}
			if r.to == "" {
				return r.place(cmd.Context(), args[0])
			}
			return r.write(cmd, args[0])
		},
	}
	c.Flags().StringVarP(&r.generation, "generation", "g", "", "which one, as history names it")
	c.Flags().StringVar(&r.to, "to", "", "directory to write to; it must be empty or not exist")
	c.Flags().BoolVar(&r.inPlace, "in-place", false, "take the service itself back")
	c.Flags().BoolVar(&r.cancel, "cancel", false, "forget a restore that is armed on this node")
	c.Flags().BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	c.Flags().DurationVar(&r.limit, "timeout", time.Hour, "do not wait longer for a restore in place; what has begun goes on")
	r.flags.add(c)
	return c
}

func (r *restoring) check() error {
	ways := 0
	for _, chosen := range []bool{r.to != "", r.inPlace, r.cancel} {
		if chosen {
			ways++
		}
	}
	switch {
	case ways != 1:
		return errors.New("say one of --to DIR, --in-place and --cancel")
	case r.generation == "" && !r.cancel:
		return errors.New("name a --generation; understudy history lists them")
	case r.generation != "" && r.cancel:
		return errors.New("--cancel takes no generation")
	}
	return nil
}

// write is --to.
func (r *restoring) write(cmd *cobra.Command, service string) error {
	kept, err := r.flags.open(cmd, service)
	if err != nil {
		return err
	}
	warnings, err := kept.Restore(cmd.Context(), r.generation, r.to)
	if err != nil {
		return err
	}
	return r.printRestored(api.RestoreResult{Service: service, Generation: r.generation, To: r.to, Warnings: warnings})
}

// place is --in-place and --cancel.
func (r *restoring) place(ctx context.Context, service string) error {
	if !r.cancel {
		question, err := r.consequences(ctx, service)
		if err != nil {
			return err
		}
		if err := r.confirm(ctx, r.yes, question); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, r.limit)
	defer cancel()
	res, err := r.client().Restore(ctx, service, r.generation)
	if err != nil {
		return err
	}
	return r.printRestored(res)
}

// consequences says what a restore in place would mean on this node now.
func (r *restoring) consequences(ctx context.Context, service string) (string, error) {
	st, err := ask(ctx, r.client().Status)
	if err != nil {
		return "", err
	}
	active := ""
	for _, p := range placesOf(onlyService(st, service)) {
		if p.Role == api.RoleActive && p.node.Self {
			return fmt.Sprintf("%s is active here. Its containers end now, its data goes back to generation %s, and they start again; what is there now is kept and pinned. Go on?", service, r.generation), nil
		}
		if p.Role == api.RoleActive && p.node.Alive {
			active = p.node.Node
		}
	}
	question := fmt.Sprintf("%s is not active here. This node is held at generation %s from now on, and goes on from it when it is promoted; what the active node writes until then is kept and pinned, and not in use any more.", service, r.generation)
	if active != "" {
		question += fmt.Sprintf(" To take the running service back where it is, run this on %s.", active)
	}
	return question + " Go on?", nil
}

func (r *restoring) printRestored(res api.RestoreResult) error {
	if r.json {
		return r.printJSON(res)
	}
	for _, w := range res.Warnings {
		r.say("note: %s", w)
	}
	switch {
	case res.To != "":
		fmt.Fprintf(r.out, "generation %s of %s is in %s\n", res.Generation, res.Service, res.To)
	case res.As != "":
		fmt.Fprintf(r.out, "%s runs with the data of generation %s, as generation %s; what was there is generation %s\n", res.Service, res.Generation, res.As, res.Before)
	case res.Armed:
		fmt.Fprintf(r.out, "armed: when this node is promoted (understudy switchover %s), it goes on from generation %s\n", res.Service, res.Generation)
	default:
		fmt.Fprintf(r.out, "this node follows the newest generation of %s again\n", res.Service)
	}
	return nil
}
