package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/service"
	"github.com/understudy-ha/understudy/agent/vip"
)

// heldTime bounds asking the kernel for addresses: it answers in microseconds.
const heldTime = time.Second

// addresses is vip.Manager as a service sees it.
type addresses struct{ manager *vip.Manager }

var _ service.Addresses = addresses{}

// resolve finds the interface of each of the service's addresses.
func (a addresses) resolve(spec api.Spec) ([]vip.Address, error) {
	var out []vip.Address
	var errs []error
	for _, cidr := range spec.VIPs {
		addr, err := a.manager.Resolve(cidr, spec.NIC)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, addr)
	}
	return out, errors.Join(errs...)
}

func (a addresses) Check(spec api.Spec) error {
	_, err := a.resolve(spec)
	return err
}

func (a addresses) Probe(ctx context.Context, spec api.Spec) error {
	addrs, err := a.resolve(spec)
	if err != nil {
		return err
	}
	err = a.manager.Probe(ctx, addrs)
	var dup *vip.DuplicateError
	if errors.As(err, &dup) && spec.VIPConflict == api.ConflictTake {
		return nil // the operator said in so many words to announce over it
	}
	return err
}

func (a addresses) Add(ctx context.Context, spec api.Spec) error {
	addrs, err := a.resolve(spec)
	if err != nil {
		return err
	}
	return a.manager.Add(ctx, addrs, vip.AddOptions{})
}

// Remove takes the service's addresses off this node wherever they are, also
// from an interface that the parameters do not name any more.
func (a addresses) Remove(ctx context.Context, spec api.Spec) error {
	addrs, _ := a.resolve(spec) // an address without an interface can still be ours, see below
	held, err := a.manager.HeldOurs(ctx)
	if err != nil {
		return err
	}
	for _, h := range held {
		if ofService(spec, h.IP()) && !slices.Contains(addrs, h.Address) {
			addrs = append(addrs, h.Address)
		}
	}
	return a.manager.Remove(ctx, addrs)
}

func ofService(spec api.Spec, ip netip.Addr) bool {
	return slices.ContainsFunc(spec.VIPs, func(cidr string) bool {
		p, err := vip.ParseCIDR(cidr)
		return err == nil && p.Addr() == ip
	})
}

func (a addresses) Held(spec api.Spec) (held, missing []string, err error) {
	if len(spec.VIPs) == 0 {
		return nil, nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), heldTime)
	defer cancel()
	addrs, err := a.resolve(spec)
	if err != nil {
		return nil, nil, err
	}
	list, err := a.manager.Held(ctx, addrs)
	if err != nil {
		return nil, nil, err
	}
	for i, addr := range addrs {
		if slices.ContainsFunc(list, func(h vip.Held) bool { return h.Address == addr }) {
			held = append(held, spec.VIPs[i])
		} else {
			missing = append(missing, spec.VIPs[i])
		}
	}
	return held, missing, nil
}
