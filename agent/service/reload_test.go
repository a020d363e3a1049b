package service

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// TestChangedParameters: while it runs, an address moves and containers stay; stop
// takes down what was started under earlier parameters.
func TestChangedParameters(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	changed := testSpec
	changed.VIPs, changed.Containers, changed.Interval = []string{"192.0.2.101/24"}, []string{"web"}, api.Duration(2*time.Hour)
	if err := order(t, s, api.ActionMonitor, changed); err != nil { // the reload was missed
		t.Fatal(err)
	}
	spec := s.snapshot().Spec
	if !slices.Equal(spec.Containers, testSpec.Containers) || spec.Interval != changed.Interval {
		t.Errorf("after the reload: %+v", spec)
	}
	n.with(func() {
		if n.held["192.0.2.100/24"] || !n.held["192.0.2.101/24"] {
			t.Errorf("addresses after the reload: %v", n.held)
		}
	})
	changed.VIPs = []string{"192.0.2.102/24"}
	if err := order(t, s, api.ActionStop, changed); err != nil {
		t.Fatal(err)
	}
	if got := n.running(); len(got) > 0 {
		t.Errorf("left running: %v", got)
	}
	n.with(func() {
		for addr, held := range n.held {
			if held {
				t.Errorf("address %s is left", addr)
			}
		}
	})
}

// twoAddresses is testSpec with an address of the other family beside its own.
func twoAddresses() api.Spec {
	spec := testSpec
	spec.VIPs = []string{"192.0.2.100/24", "2001:db8::64/64"}
	return spec
}

func (n *node) holding() (list []string) {
	n.with(func() {
		for addr, held := range n.held {
			if held {
				list = append(list, addr)
			}
		}
	})
	slices.Sort(list)
	return list
}

// TestKilledInReload: killed at any step of a change of addresses, the next
// monitor finishes it, and a demotion or a stop leaves no address behind.
func TestKilledInReload(t *testing.T) {
	from, to := twoAddresses(), testSpec
	to.VIPs = []string{"192.0.2.100/24", "192.0.2.101/24"}
	for _, at := range []string{"reload:recorded", "reload:added", "reload:removed"} {
		for _, then := range []string{api.ActionMonitor, api.ActionDemote, api.ActionStop} {
			t.Run(at+" then "+then, func(t *testing.T) {
				n := newNode(t)
				s := n.agent()
				for _, a := range []string{api.ActionStart, api.ActionPromote} {
					if err := order(t, s, a, from); err != nil {
						t.Fatal(err)
					}
				}
				n.with(func() { n.crashAt = at })
				if !killed(func() { _ = order(t, s, api.ActionReload, to) }) {
					t.Fatalf("not killed at %s", at)
				}
				s = n.agent()
				s.Resume()
				params, want := to, []string(nil)
				switch then {
				case api.ActionMonitor:
					want = to.VIPs
				case api.ActionDemote:
					params = api.Spec{Service: to.Service} // it goes by what is recorded
				}
				res, err := s.Do(t.Context(), then, api.ActionRequest{Spec: params})
				if err != nil || then == api.ActionMonitor && (res.Health != api.HealthHealthy || res.Problem != "") {
					t.Errorf("%s: %+v, %v", then, res, err)
				}
				if got := n.holding(); !slices.Equal(got, want) {
					t.Errorf("held afterwards: %v, want %v", got, want)
				}
			})
		}
	}
}

func killed(f func()) (yes bool) {
	defer func() {
		if r := recover(); r != nil {
			if r != errCrash { //nolint:errorlint // the very value that was thrown
				panic(r)
			}
			yes = true
		}
	}()
	f()
	return false
}

// TestReloadRefused: an address that cannot be taken leaves the service as it was;
// monitor calls it working, says what is the matter, and takes the address later.
func TestReloadRefused(t *testing.T) {
	for name, fail := range map[string]func(*node, error){
		"a duplicate":           func(n *node, err error) { n.refuse = err },
		"the kernel will not":   func(n *node, err error) { n.addErr = err },
		"only the prefix moves": func(n *node, err error) { n.refuse = err },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			s := n.agent()
			must(t, s, api.ActionStart, api.ActionPromote)
			changed := twoAddresses()
			if name == "only the prefix moves" {
				changed.VIPs = []string{"192.0.2.100/25"}
			}
			no := errors.New("not this one")
			n.with(func() { fail(n, no) })
			if err := order(t, s, api.ActionReload, changed); !errors.Is(err, no) {
				t.Errorf("the reload says %v", err)
			}
			res, err := s.Do(t.Context(), api.ActionMonitor, api.ActionRequest{Spec: changed})
			if err != nil || res.Health != api.HealthHealthy || !strings.Contains(res.Problem, "not this one") {
				t.Errorf("monitor says %+v, %v", res, err)
			}
			if got := n.holding(); !slices.Equal(got, testSpec.VIPs) || !slices.Equal(s.snapshot().Spec.VIPs, testSpec.VIPs) {
				t.Errorf("held %v, recorded %v", got, s.snapshot().Spec.VIPs)
			}
			n.with(func() { fail(n, nil) })
			res, err = s.Do(t.Context(), api.ActionMonitor, api.ActionRequest{Spec: changed})
			if err != nil || res.Health != api.HealthHealthy || res.Problem != "" {
				t.Errorf("monitor says %+v, %v", res, err)
			}
			if got := n.holding(); !slices.Equal(got, changed.VIPs) {
				t.Errorf("held %v, want %v", got, changed.VIPs)
			}
		})
	}
}

// TestReloadBesideAnOperation: an address that is added while a demotion takes the
// addresses away would stay behind.
func TestReloadBesideAnOperation(t *testing.T) {
	n := newNode(t)
	s := n.agent()
	must(t, s, api.ActionStart, api.ActionPromote)
	s.op.Lock()
	err := order(t, s, api.ActionReload, twoAddresses())
	res, merr := s.Do(t.Context(), api.ActionMonitor, api.ActionRequest{Spec: twoAddresses()})
	s.op.Unlock()
	if api.KindOf(err) != api.KindBusy || merr != nil || res.Problem != "" {
		t.Errorf("the reload says %v, monitor %+v, %v", err, res, merr)
	}
	if got := n.holding(); !slices.Equal(got, testSpec.VIPs) {
		t.Errorf("held %v", got)
	}
}

// order is do with parameters of the test's own.
func order(t *testing.T, s *Service, action string, spec api.Spec) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := s.Do(ctx, action, api.ActionRequest{Spec: spec})
	return err
}
