package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/agent/config"
)

//go:embed agent.toml.tmpl
var configTemplate string

// gossipPort is the port that init writes for all nodes.
const gossipPort = "7946"

// initRun is a call of `understudy init`.
type initRun struct {
	*app
	node, address string
	peers         []string
	gossipKey     string
	path          string
	store         string
	force         bool
}

type initPeer struct{ Name, Address, Gossip string }

func initCommand(a *app) *cobra.Command {
	r := &initRun{app: a}
	c := &cobra.Command{
		Use:   "init --node NAME --address ADDRESS --peer NAME=ADDRESS",
		Short: "Write this node's configuration and make its keys",
		Long: `Write this node's configuration, and make its SSH key and the gossip key beside it. Keys
that are there are kept; a configuration that is there is kept unless --force is given.

All nodes have the same gossip key: the first node makes it, the others are given a copy with --gossip-key.`,
		Example: `  n1# understudy init --node n1 --address 192.0.2.1 --peer n2=192.0.2.2
  n2# scp n1:/etc/understudy/gossip.key /root/
  n2# understudy init --node n2 --address 192.0.2.2 --peer n1=192.0.2.1 --gossip-key /root/gossip.key`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return r.run() },
	}
	fs := c.Flags()
	fs.StringVar(&r.node, "node", "", "this node's name, as Pacemaker has it (crm_node -n)")
	fs.StringVar(&r.address, "address", "", "this node's own address on the cluster network")
	fs.StringArrayVar(&r.peers, "peer", nil, "another node and its address, NAME=ADDRESS; may be repeated")
	fs.StringVar(&r.gossipKey, "gossip-key", "", "file with the gossip key of the other nodes")
	fs.StringVar(&r.path, "config", api.ConfigPath, "the configuration to write; keys go beside it")
	fs.StringVar(&r.store, "store", api.DefaultStore, "where generations are kept")
	fs.BoolVar(&r.force, "force", false, "replace a configuration that is there")
	return c
}

func (r *initRun) run() error {
	peers, err := r.check()
	if err != nil {
		return usageError{err}
	}
	if r.path, err = filepath.Abs(r.path); err != nil {
		return err
	}
	if _, err := os.Lstat(r.path); err == nil && !r.force {
		return refusef("there is a configuration at %s already, and it was left as it is; edit it, or replace it with --force", r.path)
	}
	dir := filepath.Dir(r.path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("%s cannot be made: %w; run this as root", dir, err)
	}
	var text bytes.Buffer
	err = template.Must(template.New("agent.toml").Parse(configTemplate)).Execute(&text, map[string]any{
		"Node": r.node, "Bind": net.JoinHostPort(r.address, gossipPort), "Dir": dir, "Peers": peers, "Store": r.store,
		"OtherStore": r.store != api.DefaultStore,
	})
	if err != nil {
		return err
	}
	public, made, err := r.keys(dir)
	if err != nil {
		return err
	}
	if err := writeChecked(r.path, text.Bytes()); err != nil {
		return err
	}
	return r.report(dir, peers, public, made)
}

func (r *initRun) check() ([]initPeer, error) {
	if r.node == "" || r.address == "" || len(r.peers) == 0 {
		return nil, errors.New("init needs --node, --address and at least one --peer")
	}
	if _, err := netip.ParseAddr(r.address); err != nil {
		return nil, fmt.Errorf("--address %q is not an IP address of this node", r.address)
	}
	var peers []initPeer
	for _, p := range r.peers {
		name, addr, ok := strings.Cut(p, "=")
		if _, err := netip.ParseAddr(addr); !ok || name == "" || err != nil {
			return nil, fmt.Errorf("--peer %q is not NAME=ADDRESS with an IP address", p)
		}
		if name == r.node {
			return nil, fmt.Errorf("--peer %s is this node itself", name)
		}
		peers = append(peers, initPeer{Name: name, Address: addr, Gossip: net.JoinHostPort(addr, gossipPort)})
	}
	return peers, nil
}

// keys makes what is missing, and says what it made.
func (r *initRun) keys(dir string) (public string, made []string, err error) {
	gossip := filepath.Join(dir, "gossip.key")
	switch {
	case r.gossipKey != "":
		if err := copyGossipKey(r.gossipKey, gossip, r.force); err != nil {
			return "", nil, err
		}
	case !exists(gossip):
		if err := newGossipKey(gossip); err != nil {
			return "", nil, err
		}
		made = append(made, gossip)
	}
	sshKey := filepath.Join(dir, "ssh_key")
	if !exists(sshKey) {
		if err := newSSHKey(sshKey, "understudy@"+r.node); err != nil {
			return "", nil, err
		}
		made = append(made, sshKey)
	}
	public, err = publicLine(sshKey, "understudy@"+r.node)
	if err != nil {
		return "", nil, err
	}
	if err := writeFile(sshKey+".pub", []byte(public+"\n"), 0o644); err != nil {
		return "", nil, err
	}
	if hosts := filepath.Join(dir, "known_hosts"); !exists(hosts) {
		err = writeFile(hosts, nil, 0o644)
	}
	return public, made, err
}

// writeChecked writes a configuration only if the agent would take it: it is read
// back by the agent's own reader under another name first.
func writeChecked(path string, text []byte) error {
	trial := path + ".new"
	if err := writeFile(trial, text, 0o644); err != nil {
		return err
	}
	defer os.Remove(trial)
	if _, err := config.Load(trial); err != nil {
		return fmt.Errorf("the configuration would not be accepted, and was not written: %w", err)
	}
	return writeFile(path, text, 0o644)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// initResult is what `understudy init --json` prints.
type initResult struct {
	Config    string   `json:"config"`
	Made      []string `json:"made"` // keys that were not there
	PublicKey string   `json:"public_key"`
	GossipKey string   `json:"gossip_key"` // file to copy to the peers
	Next      []string `json:"next"`
}

func (r *initRun) report(dir string, peers []initPeer, public string, made []string) error {
	res := initResult{Config: r.path, Made: append([]string{}, made...), PublicKey: public, GossipKey: filepath.Join(dir, "gossip.key")}
	for _, p := range peers {
		res.Next = append(res.Next,
			fmt.Sprintf("on %s: understudy init --node %s --address %s --peer %s=%s --gossip-key FILE   (a copy of %s)", p.Name, p.Name, p.Address, r.node, r.address, res.GossipKey),
			fmt.Sprintf("on %s: understudy trust --peer %s --key-from FILE   (a copy of %s.pub)", p.Name, r.node, filepath.Join(dir, "ssh_key")),
			fmt.Sprintf("here: understudy trust --peer %s --key-from FILE   (a copy of that file of %s)", p.Name, p.Name))
	}
	res.Next = append(res.Next, "here and there: systemctl enable --now understudy")
	if r.json {
		return r.printJSON(res)
	}
	fmt.Fprintf(r.out, "wrote %s\n", r.path)
	for _, m := range made {
		fmt.Fprintf(r.out, "made  %s\n", m)
	}
	fmt.Fprintf(r.out, "\nThis node's public key, which its peers must trust:\n\n  %s\n\nNext:\n", public)
	for _, n := range res.Next {
		fmt.Fprintf(r.out, "  %s\n", n)
	}
	return nil
}
