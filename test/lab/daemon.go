package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Supervise makes a lab that outlives the command which asked for it: the calling process is its
// daemon. It calls up when the lab is up, waits until ctx ends, and takes the lab down.
func Supervise(ctx context.Context, o Options, onUp func()) error {
	l, err := up(ctx, o, true)
	if err != nil {
		return err
	}
	onUp()
	<-ctx.Done()
	return l.Down(context.WithoutCancel(ctx))
}

// Remove takes down the lab called name, or what is left of it. No such lab is no error.
func Remove(ctx context.Context, name string) error {
	l, err := Attach(name)
	if err == nil {
		return l.Down(ctx)
	}
	if !validName.MatchString(name) {
		return err
	}
	d := labDir(name)
	if _, e := os.Stat(string(d)); errors.Is(e, os.ErrNotExist) {
		return nil
	}
	// A lab whose state cannot be read was killed while it was made.
	lk, e := tryLock(d.lockPath())
	if e != nil {
		return fmt.Errorf("take down lab %s: %w", name, errors.Join(err, e))
	}
	defer lk.discard()
	return d.destroy(ctx)
}
