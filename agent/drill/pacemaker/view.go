package pacemaker

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// View is the cluster as crm_mon shows it.
type View struct {
	DC          string
	Quorum      bool
	Fencing     bool // stonith-enabled
	Maintenance bool // the whole cluster's maintenance-mode
	Nodes       []Node
	Instances   []Instance
	Bans        []Ban
}

// Node is a cluster node.
type Node struct {
	Name        string
	Online      bool
	Standby     bool
	Maintenance bool
	Pending     bool
	Unclean     bool
}

// Instance is a resource on a node, or a stopped one on none.
type Instance struct {
	ID      string // without the clone's instance number
	Clone   string // the outermost clone it is in; empty: in none
	Agent   string // ocf:understudy:service
	Role    string // Promoted, Unpromoted, Started, Stopped
	Node    string
	Managed bool
	Failed  bool
	Blocked bool
}

// Ban is a constraint that keeps a resource off a node.
type Ban struct {
	ID       string
	Resource string
	Node     string
	Promoted bool // only its promoted role
}

// ErrNoResource says that the cluster has no such resource.
var ErrNoResource = errors.New("no such resource in the cluster")

// Service finds a service's clone id and its active and standby nodes; active
// is empty where no node has that role.
func (v View) Service(name string) (clone, active string, standbys []string, err error) {
	found := false
	for _, i := range v.Instances {
		if i.ID != name {
			continue
		}
		found = true
		if i.Clone != "" {
			clone = i.Clone
		}
		switch i.Role {
		case "Promoted", "Master":
			active = i.Node
		case "Unpromoted", "Slave":
			standbys = append(standbys, i.Node)
		}
	}
	if !found {
		return "", "", nil, fmt.Errorf("%w: %s", ErrNoResource, name)
	}
	if clone == "" {
		return "", "", nil, fmt.Errorf("the resource %s is not in a promotable clone; see pcs resource config %s", name, name)
	}
	return clone, active, standbys, nil
}

// Node finds a node by name.
func (v View) Node(name string) (Node, bool) {
	for _, n := range v.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// ParseView reads crm_mon's XML (of Pacemaker 2.1 and 3.0).
func ParseView(b []byte) (View, error) {
	p := viewParser{dec: xml.NewDecoder(bytes.NewReader(b))}
	for {
		tok, err := p.dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return View{}, fmt.Errorf("crm_mon's answer is not XML: %w", err)
		}
		switch e := tok.(type) {
		case xml.StartElement:
			p.start(e.Name.Local, attributes(e))
		case xml.EndElement:
			p.end(e.Name.Local)
		}
	}
	if !p.sawNodes {
		return View{}, errors.New("crm_mon's answer names no nodes: is the cluster running?")
	}
	return p.view, nil
}

type viewParser struct {
	dec      *xml.Decoder
	view     View
	path     []string // open elements
	clones   []string // ids of the open clones
	instance *Instance
	placed   bool // the open resource is on a node
	sawNodes bool
}

func (p *viewParser) start(name string, a map[string]string) {
	parent := ""
	if n := len(p.path); n > 0 {
		parent = p.path[n-1]
	}
	p.path = append(p.path, name)
	yes := func(key string) bool { return a[key] == "true" }
	switch {
	case name == "current_dc":
		p.view.DC, p.view.Quorum = a["name"], yes("with_quorum")
	case name == "cluster_options":
		p.view.Fencing, p.view.Maintenance = yes("stonith-enabled"), yes("maintenance-mode")
	case name == "nodes":
		p.sawNodes = true
	case name == "node" && parent == "nodes":
		p.view.Nodes = append(p.view.Nodes, Node{
			Name: a["name"], Online: yes("online"), Standby: yes("standby"),
			Maintenance: yes("maintenance"), Pending: yes("pending"), Unclean: yes("unclean"),
		})
	case name == "clone":
		p.clones = append(p.clones, a["id"])
	case name == "resource" && a["resource_agent"] != "":
		id, _, _ := strings.Cut(a["id"], ":")
		p.instance = &Instance{
			ID: id, Agent: a["resource_agent"], Role: a["role"],
			Managed: yes("managed"), Failed: yes("failed"), Blocked: yes("blocked"),
		}
		p.placed = false
		if len(p.clones) > 0 {
			p.instance.Clone = p.clones[0]
		}
	case name == "node" && parent == "resource" && p.instance != nil:
		i := *p.instance
		i.Node = a["name"]
		p.view.Instances = append(p.view.Instances, i)
		p.placed = true
	case name == "ban":
		p.view.Bans = append(p.view.Bans, Ban{
			ID: a["id"], Resource: a["resource"], Node: a["node"],
			Promoted: yes("promoted-only") || yes("promoted_only") || yes("master_only"),
		})
	}
}

func (p *viewParser) end(name string) {
	if n := len(p.path); n > 0 {
		p.path = p.path[:n-1]
	}
	switch {
	case name == "clone" && len(p.clones) > 0:
		p.clones = p.clones[:len(p.clones)-1]
	case name == "resource" && p.instance != nil:
		if !p.placed {
			p.view.Instances = append(p.view.Instances, *p.instance)
		}
		p.instance = nil
	}
}

func attributes(e xml.StartElement) map[string]string {
	m := make(map[string]string, len(e.Attr))
	for _, a := range e.Attr {
		m[a.Name.Local] = a.Value
	}
	return m
}
