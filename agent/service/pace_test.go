package service

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A capture waits while every peer that is being sent to is two generations behind, and no longer than paceMost; not
// for a peer that cannot be reached, and not where another has what there is.
func TestCapturesKeepPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sh := &shipping{ended: make(chan struct{}, 1), peers: make([]progress, 2)}
		quit := make(chan struct{})
		waited := func() time.Duration {
			began := time.Now()
			if !sh.pace(t.Context(), quit) {
				t.Error("told to end")
			}
			return time.Since(began)
		}
		sent := make(chan error)
		send := func(peer int) { go func() { _ = sh.follow(peer, func() error { return <-sent }) }(); synctest.Wait() }
		answer := func(err error) { sent <- err; synctest.Wait() }

		sh.isNew()
		send(0)
		if d := waited(); d != 0 {
			t.Errorf("waited %s with one generation on its way", d)
		}
		sh.isNew()
		if d := waited(); d != paceMost {
			t.Errorf("waited %s with one on its way and one waiting", d)
		}
		time.AfterFunc(time.Second, func() { sent <- nil })
		if d := waited(); d != time.Second {
			t.Errorf("waited %s for one that took a second", d)
		}
		synctest.Wait()
		send(0)
		sh.isNew()
		answer(errors.New("the link is down"))
		sh.isNew()
		if d := waited(); d != 0 {
			t.Errorf("waited %s for nobody", d)
		}
		send(0)
		if d := waited(); d != 0 {
			t.Errorf("waited %s for one that could not be reached", d)
		}
		send(1)
		answer(nil) // either of them
		if d := waited(); d != 0 {
			t.Errorf("waited %s though another has it all", d)
		}
		answer(nil)

		send(0)
		sh.isNew()
		sh.isNew()
		close(quit)
		if sh.pace(t.Context(), quit) {
			t.Error("it goes on")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if sh.pace(ctx, nil) {
			t.Error("it goes on")
		}
		answer(nil)
	})
}
