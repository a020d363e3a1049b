package podman

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"regexp"
	"time"

	"github.com/containers/podman/v5/pkg/bindings/network"
	nettypes "go.podman.io/common/libnetwork/types"

	"github.com/understudy-ha/understudy/agent/api"
)

// NetworkDef is a network: Config is Podman's own description (driver, subnets,
// gateway, ranges, routes, options such as mtu, vlan and isolate, labels, internal,
// dns, ipv6) without its ID and the time it was made.
type NetworkDef struct {
	Name   string          `json:"name"`
	Driver string          `json:"driver"`
	Config json.RawMessage `json:"config"`
}

// inspectNetwork is the network by name, without IDs of the node.
func (c *Client) inspectNetwork(ctx context.Context, name string) (nettypes.Network, error) {
	return call(ctx, c, "inspect network "+name, func(ctx context.Context) (nettypes.Network, error) {
		report, err := network.Inspect(ctx, name, nil)
		if err != nil {
			return nettypes.Network{}, err
		}
		n := report.Network
		n.ID, n.Created = "", time.Time{}
		return n, nil
	})
}

func networkDef(n nettypes.Network) (NetworkDef, error) {
	raw, err := json.Marshal(n)
	return NetworkDef{Name: n.Name, Driver: n.Driver, Config: raw}, err
}

// parent is the interface of the node that a network of containers is part of: of
// the drivers macvlan and ipvlan. Empty: Podman takes that of the default route.
func parent(n nettypes.Network) string {
	if n.Driver == nettypes.MacVLANNetworkDriver || n.Driver == nettypes.IPVLANNetworkDriver {
		return n.NetworkInterface
	}
	return ""
}

func checkNetwork(n nettypes.Network) []Problem {
	switch n.Driver {
	case nettypes.BridgeNetworkDriver:
	case nettypes.MacVLANNetworkDriver, nettypes.IPVLANNetworkDriver:
		if n.IPAMOptions[nettypes.Driver] == nettypes.DHCPIPAMDriver {
			return []Problem{{
				What: "its addresses in the network " + n.Name + " come from DHCP: on another node they are others",
				Next: "make the network with --subnet if they matter", Warning: true,
			}}
		}
	default:
		return []Problem{{
			What: fmt.Sprintf("its network %s has the driver %s, which is not carried", n.Name, n.Driver),
			Next: "use a bridge, macvlan or ipvlan network",
		}}
	}
	return nil
}

// checkParent wants the interface that the network is part of on this node: without
// it no container could be set up.
func (d NetworkDef) checkParent() error {
	var n nettypes.Network
	if err := json.Unmarshal(d.Config, &n); err != nil || parent(n) == "" {
		return err
	}
	if _, err := net.InterfaceByName(parent(n)); err != nil {
		return api.Errorf(api.KindInstalled, "give this node's interface that name, or make the network on the interface that all nodes have",
			"network %s is a %s on the interface %s, which this node does not have", n.Name, n.Driver, parent(n))
	}
	return nil
}

// automatic are the names Podman gives to bridges by itself.
var automatic = regexp.MustCompile(`^podman[0-9]+$`)

// same says whether two networks are alike for all that a container can see: the
// name of the bridge on the host only counts where somebody chose it.
func (d NetworkDef) same(o NetworkDef) bool {
	return bytes.Equal(d.comparable(), o.comparable())
}

func (d NetworkDef) comparable() []byte {
	var n nettypes.Network
	if err := json.Unmarshal(d.Config, &n); err != nil {
		return d.Config
	}
	if automatic.MatchString(n.NetworkInterface) {
		n.NetworkInterface = ""
	}
	raw, err := json.Marshal(n)
	if err != nil {
		return d.Config
	}
	return raw
}

// createNetwork makes the network, if possible with the same bridge name as on
// the active; a name that Podman chose there and that is taken here does not matter.
func (c *Client) createNetwork(ctx context.Context, def NetworkDef) error {
	var n nettypes.Network
	if err := json.Unmarshal(def.Config, &n); err != nil {
		return api.Errorf(api.KindGeneric, "", "network %s: its definition cannot be read: %w", def.Name, err)
	}
	err := c.postNetwork(ctx, n)
	if err != nil && ctx.Err() == nil && automatic.MatchString(n.NetworkInterface) {
		c.log.Debug("creating network without its bridge's name", "network", def.Name, "error", err)
		n.NetworkInterface = ""
		err = c.postNetwork(ctx, n)
	}
	return err
}

func (c *Client) postNetwork(ctx context.Context, n nettypes.Network) error {
	return do(ctx, c, "create network "+n.Name, func(ctx context.Context) error {
		_, err := network.Create(ctx, &n)
		return err
	})
}

// removeNetwork removes a network that no container uses.
func (c *Client) removeNetwork(ctx context.Context, name string) error {
	err := do(ctx, c, "remove network "+name, func(ctx context.Context) error {
		no := false
		reports, err := network.Remove(ctx, name, &network.RemoveOptions{Force: &no})
		for _, r := range reports {
			err = errors.Join(err, r.Err)
		}
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
