package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// statusView prints a status for a person.
type statusView struct {
	now    time.Time
	detail bool // of one service: more lines
}

// clockWarning is the clock offset from which on times in logs of both nodes mislead.
const clockWarning = 500 * time.Millisecond

// place is a service on a node.
type place struct {
	node api.NodeStatus
	api.ServiceStatus
}

func (v statusView) print(w io.Writer, st api.Status) error {
	places := placesOf(st)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tNODE\tROLE\tHEALTH\tADDRESS\tGENERATION\tAGE\tTAKEOVER")
	for _, p := range places {
		fmt.Fprintln(t, strings.Join([]string{
			p.Service, mark(p.node), role(p), string(p.Health), dash(strings.Join(p.VIPs, " ")),
			dash(p.Committed), v.age(p), takeover(p),
		}, "\t"))
	}
	if len(places) == 0 {
		fmt.Fprintln(t, "no services: define one with pcs resource create … ocf:understudy:service")
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := v.nodes(w, st); err != nil {
		return err
	}
	if v.detail {
		v.details(w, places)
	}
	v.list(w, "What stops a takeover:", blockers(places))
	v.list(w, "Warnings:", v.warnings(st, places))
	v.list(w, "", v.forecast(places))
	return nil
}

// placesOf lists by service, and within it the active node first.
func placesOf(st api.Status) []place {
	var ps []place
	for _, n := range st.Nodes {
		for _, s := range n.Services {
			ps = append(ps, place{n, s})
		}
	}
	slices.SortStableFunc(ps, func(a, b place) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), cmp.Compare(rank(a), rank(b)), strings.Compare(a.node.Node, b.node.Node))
	})
	return ps
}

func rank(p place) int {
	switch p.Role {
	case api.RoleActive:
		return 0
	case api.RoleStandby:
		return 1
	}
	return 2
}

func mark(n api.NodeStatus) string {
	if n.Self {
		return n.Node + "*"
	}
	return n.Node
}

func role(p place) string {
	if !p.node.Alive {
		return string(p.Role) + "?" // what it was when last heard of
	}
	return string(p.Role)
}

// age is how far this copy is behind: the data that would be lost if the active failed
// now and this one took over.
func (v statusView) age(p place) string {
	if p.Role != api.RoleStandby || p.FreshAt == 0 {
		return "-"
	}
	return short(v.behind(p))
}

func (v statusView) behind(p place) time.Duration {
	return max(0, v.now.Sub(time.Unix(0, p.FreshAt).Add(-time.Duration(p.node.ClockOffset))))
}

func takeover(p place) string {
	switch {
	case p.Role == api.RoleActive:
		return "is active"
	case !p.node.Alive:
		return "unreachable"
	case len(p.Blockers) > 0:
		return "blocked"
	case p.Role == api.RoleStandby:
		return "ready"
	}
	return "-"
}

func (v statusView) nodes(w io.Writer, st api.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tAGENT\tPODMAN\tSTORE FREE\tLOAD\tCLOCK\tVERSION")
	for _, n := range st.Nodes {
		agent, clock := "here", "-"
		if !n.Self {
			agent = "seen " + short(time.Duration(n.SeenAgo)) + " ago"
			clock = fmt.Sprintf("%+.1fms", float64(time.Duration(n.ClockOffset).Microseconds())/1000)
			if !n.Alive {
				agent = "GONE, " + agent
			}
		}
		podman := dash(n.Health.PodmanVersion)
		switch {
		case foreign(n):
			agent = "OTHER PROTOCOL, " + agent
		case !n.Health.PodmanOK && n.Alive:
			podman = "FAILS"
		}
		fmt.Fprintln(t, strings.Join([]string{
			mark(n), agent, podman, storeFree(n.Health),
			fmt.Sprintf("%.2f/%d", n.Health.Load1, n.Health.CPUs), clock, dash(n.Software),
		}, "\t"))
	}
	return t.Flush()
}

// foreign says that the node's agent speaks another version of the protocol: nothing
// but that is known of it.
func foreign(n api.NodeStatus) bool { return n.Version != 0 && n.Version != api.Version }

func (v statusView) details(w io.Writer, places []place) {
	for _, p := range places {
		fmt.Fprintf(w, "\n%s on %s: term %d, score %d, committed %s, tree at %s\n", p.Service, p.node.Node, p.Term, p.Score, dash(p.Committed), dash(p.Applied))
		if p.Loose {
			fmt.Fprintln(w, "  captures: without a freeze (consistency=none), so not of one instant")
		}
		if p.Sockets > 0 {
			fmt.Fprintf(w, "  not replicated: %d sockets in its volumes (whoever listens on them makes them anew)\n", p.Sockets)
		}
		if p.FreezeMax > 0 {
			fmt.Fprintf(w, "  freezes: median %s, 99%% %s, longest %s\n", short(time.Duration(p.FreezeP50)), short(time.Duration(p.FreezeP99)), short(time.Duration(p.FreezeMax)))
		}
		if p.Scrubbed != 0 {
			fmt.Fprintf(w, "  verified: all that is kept, %s ago\n", ageOf(v.now.Sub(time.Unix(0, p.Scrubbed).Add(-time.Duration(p.node.ClockOffset)))))
		}
		if len(p.Images)+len(p.Missing) > 0 {
			fmt.Fprintf(w, "  images: %d here, %d missing\n", len(p.Images), len(p.Missing))
		}
	}
}

func blockers(places []place) []string {
	var out []string
	for _, p := range places {
		for _, b := range p.Blockers {
			out = append(out, p.Service+" on "+p.node.Node+": "+b)
		}
	}
	return out
}

func (v statusView) warnings(st api.Status, places []place) []string {
	var out []string
	for _, n := range st.Nodes {
		if !n.Alive && !n.Self {
			out = append(out, fmt.Sprintf("%s: its agent is not heard of; what is shown of it is old", n.Node))
		}
		if foreign(n) {
			out = append(out, fmt.Sprintf("%s: its agent (understudy %s) speaks protocol %d and this one %d: what it says is ignored until the older of the two is upgraded", n.Node, dash(n.Software), n.Version, api.Version))
		}
		if n.Alive && !n.Health.PodmanOK && !foreign(n) {
			out = append(out, fmt.Sprintf("%s: Podman does not answer: %s", n.Node, cmp.Or(n.Health.PodmanError, "no reason is given")))
		}
		if off := time.Duration(n.ClockOffset); n.Alive && (off >= clockWarning || off <= -clockWarning) {
			out = append(out, fmt.Sprintf("%s: its clock is %s off this node's; see chronyc tracking on both", n.Node, short(off)))
		}
	}
	for _, p := range places {
		for _, x := range p.Warnings {
			out = append(out, p.Service+" on "+p.node.Node+": "+x)
		}
		if len(p.Missing) > 0 {
			out = append(out, fmt.Sprintf("%s on %s: images missing there: %d", p.Service, p.node.Node, len(p.Missing)))
		}
		if len(p.Diverged) > 0 {
			out = append(out, fmt.Sprintf("%s on %s: writes that nobody received are archived there as %s", p.Service, p.node.Node, strings.Join(p.Diverged, ", ")))
		}
	}
	return out
}

// forecast says in a line per service what a failure of the active node would mean now.
func (v statusView) forecast(places []place) []string {
	byService := map[string][]place{}
	var names []string
	for _, p := range places {
		if byService[p.Service] == nil {
			names = append(names, p.Service)
		}
		byService[p.Service] = append(byService[p.Service], p)
	}
	var out []string
	for _, name := range names {
		out = append(out, v.forecastOf(name, byService[name]))
	}
	return out
}

func (v statusView) forecastOf(name string, places []place) string {
	active, best := "", -1
	for i, p := range places {
		switch {
		case p.Role == api.RoleActive && p.node.Alive:
			active = p.node.Node
		case takeover(p) == "ready" && (best < 0 || p.Score > places[best].Score):
			best = i
		}
	}
	switch {
	case active == "":
		return name + ": NOT ACTIVE on any node that is heard of; see pcs status and understudy log " + name
	case best < 0:
		return name + ": NOT PROTECTED: if " + active + " failed now, nothing would take over"
	}
	return fmt.Sprintf("%s: if %s failed now, %s would take over and lose the last %s", name, active, places[best].node.Node, short(v.behind(places[best])))
}

func (v statusView) list(w io.Writer, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintln(w)
	indent := ""
	if title != "" {
		fmt.Fprintln(w, title)
		indent = "  - "
	}
	for _, l := range lines {
		fmt.Fprintln(w, indent+l)
	}
}

func storeFree(h api.NodeHealth) string {
	if h.StoreTotal == 0 {
		return "-"
	}
	return bytesOf(h.StoreFree) + " of " + bytesOf(h.StoreTotal)
}

func dash(s string) string { return cmp.Or(s, "-") }

func bytesOf(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, suffix := float64(n)/unit, "KMGTPE"
	for f >= unit && len(suffix) > 1 {
		f, suffix = f/unit, suffix[1:]
	}
	return fmt.Sprintf("%.1f %ciB", f, suffix[0])
}
