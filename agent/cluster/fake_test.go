package cluster

import (
	"context"
	"encoding/xml"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// cib is one CIB for all nodes of a test, with ordered writes, as Pacemaker's.
type cib struct {
	mu     sync.Mutex
	terms  map[string]string // node → value of the only attribute
	name   string            // that attribute's
	scores map[string]string // "node/attribute" → value
	log    []string          // commands
	before func(command string)
	fail   error
}

func newCIB(service string, nodes ...string) *cib {
	c := &cib{terms: map[string]string{}, name: attribute(service), scores: map[string]string{}, before: func(string) {}}
	for _, n := range nodes {
		c.terms[n] = ""
	}
	return c
}

func option(args []string, name string) string {
	for _, a := range args {
		if v, ok := strings.CutPrefix(a, "--"+name+"="); ok {
			return v
		}
	}
	return ""
}

// Run implements Runner.
func (c *cib) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.before(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, strings.Join(append([]string{name}, args...), " "))
	if c.fail != nil {
		return nil, c.fail
	}
	node := option(args, "node")
	switch name {
	case "cibadmin":
		return c.nodesLocked(), nil
	case "crm_attribute":
		if _, ok := c.terms[node]; !ok {
			return nil, &ExitError{Command: name, Code: exitNoHost, Stderr: "Could not map name=" + node + " to a UUID"}
		}
		if option(args, "name") != c.name || option(args, "lifetime") != "forever" {
			return nil, fmt.Errorf("unexpected %v", args)
		}
		c.terms[node] = option(args, "update")
		return nil, nil
	case "attrd_updater":
		key := node + "/" + option(args, "name")
		if slices.Contains(args, "--delete") {
			delete(c.scores, key)
		} else {
			c.scores[key] = option(args, "update")
		}
		return nil, nil
	}
	return nil, fmt.Errorf("unexpected command %s", name)
}

func (c *cib) nodesLocked() []byte {
	var b strings.Builder
	b.WriteString("<nodes>")
	for n, v := range c.terms {
		b.WriteString(`<node id="1" uname="`)
		xml.EscapeText(&b, []byte(n))
		b.WriteString(`">`)
		if v != "" {
			fmt.Fprintf(&b, `<instance_attributes id="a"><nvpair id="b" name="%s" value="%s"/></instance_attributes>`, c.name, v)
		}
		b.WriteString("</node>")
	}
	b.WriteString("</nodes>")
	return []byte(b.String())
}

// jitter makes commands take differently long.
func jitter(string) { time.Sleep(rand.N(200 * time.Microsecond)) }

func noPause(ctx context.Context, _ int) error { return ctx.Err() }
