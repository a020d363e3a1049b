package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// DefaultInterval is the time between two states of a node.
const DefaultInterval = time.Second

// DefaultPort is the port of a peer that names none.
const DefaultPort = 7946

// Peer is another node of the cluster.
type Peer struct {
	Name string
	// Addr is the host or address, with or without port ([DefaultPort]), that the
	// peer advertises: a node of that name at any other is refused.
	Addr string
}

// Options are a Gossip's. Node, Bind, Key and Local are needed.
type Options struct {
	Node      string   // this node's name, as in Pacemaker
	Software  string   // this program's version, shown to the peers
	Bind      string   // "address:port" to listen on, TCP and UDP
	Advertise string   // "address:port" peers reach us at, and have us configured at; empty: Bind
	Key       [32]byte // AES-256, the same on all nodes
	Peers     []Peer

	// Local gives this node's own state. Version, Node, Software, Incarnation,
	// Seq and At are filled in here. It is called from one goroutine and may
	// take as long as an interval, not longer.
	Local func() api.NodeStatus
	// OnChange is told of a peer whose state or liveness has changed; changes
	// that come while it runs are told as one. It is called from one goroutine
	// and may block. May be nil.
	OnChange func(api.NodeStatus)

	Interval time.Duration // between states; 0: [DefaultInterval]
	Logger   *slog.Logger  // nil: nothing is logged
}

// Validate says what is wrong with the options, naming each.
func (o Options) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Node == "" {
		bad("gossip: the node has no name")
	}
	if o.Local == nil {
		bad("gossip: there is nobody to ask for the local state")
	}
	if o.Key == ([32]byte{}) {
		bad("gossip: the key is missing (all zeros)")
	}
	if _, err := netip.ParseAddrPort(o.Bind); err != nil {
		bad("gossip: bind %q is not \"address:port\": %w", o.Bind, err)
	}
	if o.Advertise != "" {
		if a, err := netip.ParseAddrPort(o.Advertise); err != nil || a.Addr().IsUnspecified() || a.Port() == 0 {
			bad("gossip: advertise %q is not the \"address:port\" peers can reach", o.Advertise)
		}
	}
	var seen []string
	for _, p := range o.Peers {
		switch {
		case p.Name == "":
			bad("gossip: the peer at %q has no name", p.Addr)
		case p.Name == o.Node:
			bad("gossip: peer %s has this node's own name", p.Name)
		case slices.Contains(seen, p.Name):
			bad("gossip: peer %s is named twice", p.Name)
		}
		seen = append(seen, p.Name)
		if _, _, err := p.hostPort(); err != nil {
			bad("gossip: address %q of peer %s: %w", p.Addr, p.Name, err)
		}
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Advertise == "" {
		o.Advertise = o.Bind
	}
	if o.OnChange == nil {
		o.OnChange = func(api.NodeStatus) {}
	}
	return o
}

// hostPort takes a peer's address apart.
func (p Peer) hostPort() (string, uint16, error) {
	if ip, err := netip.ParseAddr(p.Addr); err == nil {
		return ip.String(), DefaultPort, nil
	}
	host, text, err := net.SplitHostPort(p.Addr)
	var missing *net.AddrError
	if errors.As(err, &missing) && missing.Err == "missing port in address" {
		host, text, err = p.Addr, strconv.Itoa(DefaultPort), nil
	}
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || host == "" {
		return "", 0, errors.New(`want "host:port"`)
	}
	return host, uint16(port), nil
}
