package cluster

import (
	"context"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
)

// Status is the cluster as Pacemaker on this node sees it.
type Status struct {
	DC        string // empty: none elected yet
	Quorum    bool
	Nodes     []Node
	Resources []Resource
}

// Node is a member of the cluster, online or not.
type Node struct {
	Name        string
	Online      bool
	Standby     bool
	Unclean     bool // to be fenced
	Maintenance bool
}

// Resource is a promotable clone, or another resource, of this project's agent.
type Resource struct {
	Service  string   // the primitive's id, without an instance's ":N"
	ID       string   // what `pcs resource move` takes: the clone's id where there is one
	Promoted []string // nodes
	Started  []string // nodes where it runs unpromoted
	Failed   bool
	Managed  bool
}

// Agent is the name by which Pacemaker knows the resource agent.
const Agent = "ocf:understudy:service"

type monResource struct {
	ID      string `xml:"id,attr"`
	Agent   string `xml:"resource_agent,attr"`
	Role    string `xml:"role,attr"`
	Active  bool   `xml:"active,attr"`
	Failed  bool   `xml:"failed,attr"`
	Managed bool   `xml:"managed,attr"`
	Nodes   []struct {
		Name string `xml:"name,attr"`
	} `xml:"node"`
}

type monGroup struct {
	ID        string        `xml:"id,attr"`
	Resources []monResource `xml:"resource"`
}

// monOutput is what is needed of crm_mon's XML (Pacemaker's xml/api).
type monOutput struct {
	XMLName xml.Name `xml:"pacemaker-result"`
	Summary struct {
		DC struct {
			Name   string `xml:"name,attr"`
			Quorum bool   `xml:"with_quorum,attr"`
		} `xml:"current_dc"`
	} `xml:"summary"`
	Nodes []struct {
		Name        string `xml:"name,attr"`
		Online      bool   `xml:"online,attr"`
		Standby     bool   `xml:"standby,attr"`
		Unclean     bool   `xml:"unclean,attr"`
		Maintenance bool   `xml:"maintenance,attr"`
	} `xml:"nodes>node"`
	Resources struct {
		Clones []struct {
			monGroup
			Groups []monGroup `xml:"group"`
		} `xml:"clone"`
		Groups []monGroup    `xml:"group"`
		Plain  []monResource `xml:"resource"`
	} `xml:"resources"`
}

// Status asks for the cluster's nodes, and for the services' resources.
func (c *Cluster) Status(ctx context.Context) (Status, error) {
	out, err := c.run(ctx, "ask for the cluster's status", "crm_mon", "--output-as=xml", "--inactive",
		"--exclude=all", "--include=dc,nodes,resources")
	if err != nil {
		return Status{}, err
	}
	return parseStatus(out)
}

func parseStatus(text []byte) (Status, error) {
	var m monOutput
	if err := xml.Unmarshal(text, &m); err != nil {
		return Status{}, fmt.Errorf("read crm_mon's answer: %w", err)
	}
	s := Status{DC: m.Summary.DC.Name, Quorum: m.Summary.DC.Quorum}
	for _, n := range m.Nodes {
		s.Nodes = append(s.Nodes, Node(n))
	}
	for _, cl := range m.Resources.Clones {
		s.add(cl.ID, cl.Resources)
		for _, g := range cl.Groups {
			s.add(cl.ID, g.Resources)
		}
	}
	for _, g := range m.Resources.Groups {
		s.add("", g.Resources)
	}
	s.add("", m.Resources.Plain)
	return s, nil
}

// add takes in instances; id is the clone's that they belong to, or "".
func (s *Status) add(id string, instances []monResource) {
	for _, r := range instances {
		if r.Agent != Agent {
			continue
		}
		service, _, _ := strings.Cut(r.ID, ":")
		i := slices.IndexFunc(s.Resources, func(o Resource) bool { return o.Service == service })
		if i < 0 {
			i = len(s.Resources)
			s.Resources = append(s.Resources, Resource{Service: service, ID: id, Managed: true})
			if id == "" {
				s.Resources[i].ID = service
			}
		}
		o := &s.Resources[i]
		o.Failed = o.Failed || r.Failed
		o.Managed = o.Managed && r.Managed
		for _, n := range r.Nodes {
			switch r.Role {
			case "Promoted", "Master": // the latter before Pacemaker 2.1
				o.Promoted = append(o.Promoted, n.Name)
			case "Unpromoted", "Slave", "Started":
				o.Started = append(o.Started, n.Name)
			}
		}
	}
}

// Find finds a service's resource.
func (s Status) Find(service string) (Resource, error) {
	for _, r := range s.Resources {
		if r.Service == service {
			return r, nil
		}
	}
	return Resource{}, api.Errorf(api.KindNotFound, "look at `pcs resource status` for its name", "the cluster has no service %s", service)
}

// Promoted returns the node where a service is promoted, "" when it is nowhere.
// It is what Pacemaker believes; more than one is an error that names them.
func (c *Cluster) Promoted(ctx context.Context, service string) (string, error) {
	s, err := c.Status(ctx)
	if err != nil {
		return "", err
	}
	r, err := s.Find(service)
	if err != nil {
		return "", err
	}
	switch len(r.Promoted) {
	case 0:
		return "", nil
	case 1:
		return r.Promoted[0], nil
	}
	return "", api.Errorf(api.KindRefused, "stop it on all but one node at once", "service %s is promoted on several nodes: %s", service, strings.Join(r.Promoted, ", "))
}
