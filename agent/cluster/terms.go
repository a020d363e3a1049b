package cluster

import (
	"context"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
)

// reserveAttempts bounds Reserve. A second one is rare, a third needs a third node.
const reserveAttempts = 10

// Reserve takes a new term for a promotion of the service on this node: greater
// than above and than every node's reservation. No other node gets the same
// one. It costs three commands, or about 60 ms.
func (c *Cluster) Reserve(ctx context.Context, service string, above uint64) (uint64, error) {
	for attempt := range reserveAttempts {
		if attempt > 0 {
			if err := c.opts.Pause(ctx, attempt); err != nil {
				return 0, fmt.Errorf("reserve a term for service %s: %w", service, err)
			}
		}
		term, err := c.reserveOnce(ctx, service, above)
		if err != nil || term > 0 {
			return term, err
		}
	}
	return 0, api.Errorf(api.KindBusy, "it is tried again; look for a node that reserves all the time with `understudy log`",
		"no term could be reserved for service %s in %d attempts, because other nodes reserved theirs at the same moments", service, reserveAttempts)
}

// reserveOnce returns 0 when another node was at it too.
func (c *Cluster) reserveOnce(ctx context.Context, service string, above uint64) (uint64, error) {
	terms, err := c.Terms(ctx, service)
	if err != nil {
		return 0, err
	}
	highest := above
	for _, t := range terms {
		highest = max(highest, t)
	}
	if highest == math.MaxUint64 {
		return 0, api.Errorf(api.KindRefused, "correct it: crm_attribute --lifetime forever --node NODE --name "+attribute(service)+" --update NUMBER",
			"no term is greater than %d, which is in the CIB for service %s", highest, service)
	}
	term := highest + 1
	_, err = c.run(ctx, "reserve a term for service "+service, "crm_attribute", "--lifetime=forever", "--node="+c.opts.Node,
		"--name="+attribute(service), "--update="+strconv.FormatUint(term, 10))
	if err != nil {
		return 0, err
	}
	if terms, err = c.Terms(ctx, service); err != nil {
		return 0, err
	}
	if terms[c.opts.Node] != term {
		return 0, fmt.Errorf("reserve term %d for service %s: the CIB has %d for node %s after it was written; is the node's name in the agent's configuration as `crm_node -n` prints it?",
			term, service, terms[c.opts.Node], c.opts.Node)
	}
	if node, other := c.highestOther(terms); other >= term {
		c.opts.Logger.Info("another node reserved a term at the same moment", "service", service, "term", term, "node", node, "its_term", other)
		return 0, nil
	}
	return term, nil
}

// ErrOvertaken is in the chain of Check's error when the term can no longer be used.
var ErrOvertaken = errors.New("another node has reserved a later term")

// Check says whether a reserved term may still be used for a promotion: it is
// what this node has in the CIB, and every other node's is smaller. If not,
// Reserve anew. It is one read of this node's copy of the CIB.
func (c *Cluster) Check(ctx context.Context, service string, term uint64) error {
	terms, err := c.Terms(ctx, service)
	if err != nil {
		return err
	}
	if term == 0 || terms[c.opts.Node] != term {
		return api.Errorf(api.KindRefused, "a new term has to be reserved",
			"term %d of service %s is not what node %s has reserved (%d)", term, service, c.opts.Node, terms[c.opts.Node])
	}
	if node, other := c.highestOther(terms); other >= term {
		return fmt.Errorf("term %d of service %s cannot be used: %w: %s has %d", term, service, ErrOvertaken, node, other)
	}
	return nil
}

func (c *Cluster) highestOther(terms map[string]uint64) (node string, term uint64) {
	for n, t := range terms {
		if n != c.opts.Node && t > term {
			node, term = n, t
		}
	}
	return node, term
}

// Terms reads every node's reservation for a service from this node's copy of
// the CIB; nodes without one are left out.
func (c *Cluster) Terms(ctx context.Context, service string) (map[string]uint64, error) {
	out, err := c.run(ctx, "read the terms of service "+service, "cibadmin", "--query", "--local", "--scope=nodes")
	if err != nil {
		return nil, err
	}
	return parseTerms(out, attribute(service))
}

// cibNodes is the CIB's nodes section.
type cibNodes struct {
	XMLName xml.Name `xml:"nodes"`
	Nodes   []struct {
		ID   string `xml:"id,attr"`
		Name string `xml:"uname,attr"`
		Sets []struct {
			Pairs []struct {
				Name  string `xml:"name,attr"`
				Value string `xml:"value,attr"`
			} `xml:"nvpair"`
		} `xml:"instance_attributes"`
	} `xml:"node"`
}

func parseTerms(text []byte, attribute string) (map[string]uint64, error) {
	var nodes cibNodes
	if err := xml.Unmarshal(text, &nodes); err != nil {
		return nil, fmt.Errorf("read the CIB's nodes: %w", err)
	}
	terms := map[string]uint64{}
	for _, n := range nodes.Nodes {
		for _, set := range n.Sets {
			for _, p := range set.Pairs {
				if p.Name != attribute {
					continue
				}
				term, err := strconv.ParseUint(p.Value, 10, 64)
				if err != nil {
					return nil, api.Errorf(api.KindRefused, fmt.Sprintf("set it to the highest term in use: crm_attribute --lifetime forever --node %s --name %s --update NUMBER", n.Name, attribute),
						"node attribute %s of %s is %q, not a term", attribute, n.Name, p.Value)
				}
				// Two sets may hold it, when somebody edited the CIB: the higher one counts.
				terms[n.Name] = max(terms[n.Name], term)
			}
		}
	}
	return terms, nil
}

const attributePrefix = "understudy-term-"

// attribute is the node attribute's name for a service. It also becomes part of
// an XML id: bytes that may not stand in one are written as "_" and two hex
// digits, and so is "_" itself, so that two services never share one.
func attribute(service string) string {
	var b strings.Builder
	b.WriteString(attributePrefix)
	for _, c := range []byte(service) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' {
			b.WriteByte(c)
		} else {
			b.WriteString("_" + hex.EncodeToString([]byte{c}))
		}
	}
	return b.String()
}
