package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/wire"
)

// Config is a node's configuration, complete and checked.
type Config struct {
	Path     string // the file it came from
	Node     string // this node's name, as Pacemaker has it
	Store    string // directory of the generations, the journal and the state
	Socket   string // the control socket's path
	Podman   string // URI of Podman's socket, "unix:///…"
	LogLevel slog.Level
	Gossip   Gossip
	SSH      SSH
	Peers    []Peer
	Limits   Limits
	// Retention is what this node keeps of what it is sent, its Applied left empty.
	Retention store.Policy
	Spare     int64 // bytes that history leaves free on the store's file system; 0: see store.Options
	Scrub     Scrub
}

// Scrub is how this node verifies what it keeps, by itself.
type Scrub struct {
	Rate  int64         // bytes per second
	Every time.Duration // from the end of a round to the next; 0: only when asked
}

// Gossip is how this node talks to its peers' agents.
type Gossip struct {
	Bind    netip.AddrPort // this node's own address; zero: no gossip
	KeyFile string
	Key     Secret // 32 bytes; nil without a key file
}

// SSH is how this node sends generations to its peers.
type SSH struct {
	User       string // account on the peer that runs `understudy receive`
	KeyFile    string // private key
	KnownHosts string // the peers' pinned host keys
}

// Peer is another node that runs an agent.
type Peer struct {
	Name    string // as Pacemaker has it
	Address string // host name or address for SSH
	SSHPort int
	Gossip  netip.AddrPort
}

// Limits bound what the agent uses of the node.
type Limits struct {
	JournalSize int64 // bytes, of all files of the decision journal
	Bandwidth   int64 // of what is sent to all peers together, bytes per second; 0: no limit
	// UnusedImages is how long an image that Understudy brought stays when no service needs it; 0: for ever.
	UnusedImages time.Duration
}

// Defaults of keys that may be left out.
const (
	DefaultPodman       = "unix:///run/podman/podman.sock"
	DefaultSSHUser      = "understudy"
	DefaultSSHPort      = 22
	DefaultJournalSize  = 16 << 20
	DefaultUnusedImages = 24 * time.Hour
	minJournalSize      = 64 << 10
	minBandwidth        = wire.LeastRate

	DefaultScrubRate  = 16 << 20
	minScrubRate      = 64 << 10
	DefaultScrubEvery = 7 * 24 * time.Hour
	minScrubEvery     = time.Hour

	minSpare = 2 * store.LeastFree
)

// Secret is key material that stays out of logs, errors and JSON.
type Secret []byte

// String hides the secret.
func (s Secret) String() string { return fmt.Sprintf("[secret of %d bytes]", len(s)) }

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret from JSON and TOML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// host is what of the machine a configuration is checked against.
type host struct {
	name string // short host name: the default of node
	uid  uint32 // who must own the configuration and the keys
}

// Load reads, checks and completes the configuration at path, key files
// included. What is wrong comes as an [*Error] that names all of it.
func Load(path string) (*Config, error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("find this node's host name: %w", err)
	}
	short, _, _ := strings.Cut(name, ".")
	return load(path, host{name: short, uid: 0})
}

func load(path string, h host) (*Config, error) {
	data, err := readOwned(path, h.uid, 0o022)
	if err != nil {
		if os.IsNotExist(err) {
			return nil, api.Errorf(api.KindInstalled, "write it with `understudy init`, or name another with --config",
				"there is no configuration at %s", path)
		}
		return nil, &Error{Path: path, Problems: []Problem{problemOf(0, path, err, "0644")}}
	}
	c, d := parse(path, data, h)
	if c != nil {
		d.checkFiles(c, h.uid)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// parse reads the text alone, no key files. The configuration is nil only when
// the text is not TOML; the document holds the problems found.
func parse(path string, data []byte, h host) (*Config, *document) {
	d := newDocument(path, data)
	if d.root == nil {
		return nil, d
	}
	root := d.table("", d.root)
	c := &Config{
		Path:     path,
		Node:     root.word("node", h.name),
		Store:    root.path("store", api.DefaultStore),
		Socket:   root.socket("socket", api.DefaultSocket),
		Podman:   root.podman("podman", DefaultPodman),
		LogLevel: root.level("log_level", slog.LevelInfo),
	}
	limits := root.child("limits")
	c.Limits.JournalSize = limits.size("journal_size", DefaultJournalSize, minJournalSize)
	c.Limits.Bandwidth = limits.rate("bandwidth", minBandwidth)
	c.Limits.UnusedImages = limits.duration("unused_images", DefaultUnusedImages, time.Second)
	limits.done()
	c.Retention, c.Spare = root.child("retention").retention()
	scrub := root.child("scrub")
	c.Scrub.Rate = scrub.size("rate", DefaultScrubRate, minScrubRate)
	c.Scrub.Every = scrub.duration("every", DefaultScrubEvery, minScrubEvery)
	scrub.done()

	peers := root.children("peer")
	gossip, ssh := root.child("gossip"), root.child("ssh")
	need := len(peers) > 0 // a node alone neither gossips nor sends
	c.Gossip.Bind = gossip.bind("bind", need)
	c.Gossip.KeyFile = gossip.required("key_file", need || gossip.has("bind"), "/etc/understudy/gossip.key")
	c.SSH.User = ssh.word("user", DefaultSSHUser)
	c.SSH.KeyFile = ssh.required("key_file", need, "/etc/understudy/ssh_key")
	c.SSH.KnownHosts = ssh.required("known_hosts", need, "/etc/understudy/known_hosts")
	gossip.done()
	ssh.done()
	for _, t := range peers {
		c.Peers = append(c.Peers, t.peer())
	}
	root.done()
	d.checkPeers(c, peers)
	return c, d
}

func (t *table) retention() (store.Policy, int64) {
	def, least := store.DefaultPolicy, store.Floor
	p := store.Policy{
		KeepLast: t.count("keep_last", def.KeepLast, least.KeepLast),
		Hourly:   t.count("hourly", def.Hourly, least.Hourly),
		Daily:    t.count("daily", def.Daily, least.Daily),
		Weekly:   t.count("weekly", def.Weekly, least.Weekly),
	}
	spare := t.rate("spare", minSpare)
	t.done()
	return p, spare
}

func (t *table) peer() Peer {
	p := Peer{
		Name:    t.mandatoryWord("name", "n2"),
		Address: t.hostName("address"),
		SSHPort: t.port("ssh_port", DefaultSSHPort),
		Gossip:  t.addrPort("gossip", true, "198.51.100.2:7946"),
	}
	t.done()
	return p
}

// checkPeers finds what is wrong between entries that are right by themselves.
func (d *document) checkPeers(c *Config, peers []*table) {
	names, addrs := map[string]int{}, map[netip.AddrPort]int{}
	for i, p := range c.Peers {
		t := peers[i]
		if p.Name != "" && p.Name == c.Node {
			t.problem("name", "write the other node's name; this node's is set by `node`", "peer %q is this node itself", p.Name)
		}
		if line := names[p.Name]; p.Name != "" && line > 0 {
			t.problem("name", "give every peer its own name", "peer %q is already on line %d", p.Name, line)
		}
		names[p.Name] = t.line("name")
		if !p.Gossip.IsValid() {
			continue
		}
		if line := addrs[p.Gossip]; line > 0 {
			t.problem("gossip", "give every peer its own address", "gossip address %s is already on line %d", p.Gossip, line)
		}
		addrs[p.Gossip] = t.line("gossip")
		bind := c.Gossip.Bind
		switch {
		case !bind.IsValid():
		case p.Gossip == bind:
			t.problem("gossip", "write the peer's address", "gossip address %s is this node's own", p.Gossip)
		case p.Gossip.Addr().Is4() != bind.Addr().Is4():
			t.problem("gossip", "use IPv4 for both or IPv6 for both", "peer's gossip address %s cannot be reached from %s", p.Gossip, bind)
		}
	}
}
