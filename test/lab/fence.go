package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// supervisor is the power switch of the lab: fence_lab on the nodes asks it over a unix socket that
// all nodes see as /lab/power.sock. Requests:
//
//	POST /off|on|reboot|status?node=NODE&by=HOST, POST /list
//
// Answers: 200 done (status: on), 410 status: off, anything else failed with the reason as text.
// "reboot" answers as soon as the node is off and boots it afterwards.
type supervisor struct {
	lab    *Lab
	srv    *http.Server
	ctx    context.Context // ends with close
	cancel context.CancelFunc
	work   sync.WaitGroup // the server and boots in the background
	turn   chan struct{}  // holds one token: one power verb at a time
}

func startSupervisor(l *Lab) (*supervisor, error) {
	path := l.dir.path("share", "power.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("power switch: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &supervisor{lab: l, ctx: ctx, cancel: cancel, turn: make(chan struct{}, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /list", s.list)
	mux.HandleFunc("POST /status", s.node(s.status))
	mux.HandleFunc("POST /off", s.node(s.off))
	mux.HandleFunc("POST /on", s.node(s.on))
	mux.HandleFunc("POST /reboot", s.node(s.reboot))
	s.srv = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	s.work.Go(func() { _ = s.srv.Serve(ln) })
	return s, nil
}

// close ends the service and waits for what it was doing.
func (s *supervisor) close() {
	s.cancel()
	_ = s.srv.Close()
	s.work.Wait()
}

// asker is who asked, for the power log.
func asker(r *http.Request) string { return "fence:" + r.FormValue("by") }

// node finds the node that a request is about and turns the handler's error into an answer.
func (s *supervisor) node(h func(*http.Request, *Node) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n := s.lab.Node(r.FormValue("node"))
		if n == nil {
			http.Error(w, fmt.Sprintf("no node %q in this lab: it has %v", r.FormValue("node"), s.lab.names()), http.StatusNotFound)
			return
		}
		err := h(r, n)
		switch {
		case errors.Is(err, errOff):
			w.WriteHeader(http.StatusGone)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
}

func (s *supervisor) list(w http.ResponseWriter, _ *http.Request) {
	for _, n := range s.lab.nodes {
		fmt.Fprintf(w, "%s,\n", n.name)
	}
}

func (s *supervisor) status(_ *http.Request, n *Node) error {
	if !n.Running() {
		return errOff
	}
	return nil
}

func (s *supervisor) off(r *http.Request, n *Node) error {
	_ = s.lab.log.add(PowerEvent{Node: n.name, Verb: "off", Phase: PhaseAsked, By: asker(r)})
	err := s.cut(r, n)
	s.lab.log.done(n.name, "off", asker(r), err)
	return err
}

// cut takes the power of n. Two nodes that fence each other at the same instant ask at the same
// instant: the verbs take turns, and whoever has lost its own power while it waited is not served, as
// with a switch that gives one answer at a time.
func (s *supervisor) cut(r *http.Request, n *Node) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-r.Context().Done():
		return context.Cause(r.Context())
	}
	if by := s.lab.Node(r.FormValue("by")); by != nil && !by.Running() {
		return fmt.Errorf("%s has lost its power while it asked", by.name)
	}
	lk, err := n.powerLock(r.Context())
	if err != nil {
		return err
	}
	defer lk.unlock()
	// Once begun it is finished, whatever becomes of the asker.
	return n.cutPower(context.WithoutCancel(r.Context()))
}

func (s *supervisor) on(r *http.Request, n *Node) error {
	s.bootLater(n, asker(r))
	return nil
}

func (s *supervisor) reboot(r *http.Request, n *Node) error {
	_ = s.lab.log.add(PowerEvent{Node: n.name, Verb: "reboot", Phase: PhaseAsked, By: asker(r)})
	err := s.cut(r, n)
	s.lab.log.done(n.name, "reboot", asker(r), err)
	if err == nil && s.lab.AutoBoot() {
		s.bootLater(n, asker(r))
	}
	return err
}

// selfTest is what a machine's firmware takes. A node that is back before the cluster's membership
// has noticed that it was gone is like no machine, and goes on before another takes over.
const selfTest = 3 * time.Second

func (s *supervisor) bootLater(n *Node, by string) {
	s.work.Go(func() {
		if sleep(s.ctx, selfTest) == nil {
			_ = n.boot(s.ctx, by)
		}
	})
}

// SetAutoBoot says whether a node boots again after it was fenced with "reboot". It holds for the
// lab, also for fencing that other processes see.
func (l *Lab) SetAutoBoot(on bool) error {
	if on {
		return writeFile(l.dir.path("autoboot"), nil, 0o644)
	}
	err := os.Remove(l.dir.path("autoboot"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// AutoBoot tells what SetAutoBoot has said.
func (l *Lab) AutoBoot() bool {
	_, err := os.Stat(l.dir.path("autoboot"))
	return err == nil
}
