package lab

import (
	"context"
	"fmt"
)

// cutTable drops whatever passes from one port of the switch to another while the pair is in the
// set: ARP and neighbour discovery too, as with a broken cable.
const cutTable = `table bridge lab {
	set cut { type ifname . ifname; }
	chain cables {
		type filter hook forward priority 0; policy accept;
		iifname . oifname @cut drop
	}
}
`

func (d dir) nft(ctx context.Context, rules string) error {
	return run(ctx, rules, "nsenter", "--net="+d.netnsPath("sw"), "nft", "-f", "-")
}

// CutOneWay drops everything that from sends to to; each is a node's name or "client". The links
// stay up: neither end is told.
func (l *Lab) CutOneWay(ctx context.Context, from, to string) error {
	return l.cut(ctx, pair{from, to})
}

// Cut drops everything between a and b.
func (l *Lab) Cut(ctx context.Context, a, b string) error {
	return l.cut(ctx, pair{a, b}, pair{b, a})
}

// Heal undoes cuts between a and b in both directions; there need not be any.
func (l *Lab) Heal(ctx context.Context, a, b string) error {
	rules := ""
	for _, p := range []pair{{a, b}, {b, a}} {
		if err := l.checkPair(p); err != nil {
			return err
		}
		// Deleting what is not there is an error, adding what is there is none.
		rules += "add element bridge lab cut " + p.element() + "\ndelete element bridge lab cut " + p.element() + "\n"
	}
	return l.logged(ctx, "heal", a+","+b, l.dir.nft(ctx, rules))
}

// HealAll undoes every cut.
func (l *Lab) HealAll(ctx context.Context) error {
	return l.logged(ctx, "heal", "all", l.dir.nft(ctx, "flush set bridge lab cut\n"))
}

type pair struct{ from, to string }

func (p pair) element() string {
	return fmt.Sprintf("{ %q . %q }", port(p.from), port(p.to))
}

func (l *Lab) cut(ctx context.Context, pairs ...pair) error {
	rules := ""
	for _, p := range pairs {
		if err := l.checkPair(p); err != nil {
			return err
		}
		rules += "add element bridge lab cut " + p.element() + "\n"
	}
	arrow := map[int]string{1: ">", 2: ","}[len(pairs)]
	return l.logged(ctx, "cut", pairs[0].from+arrow+pairs[0].to, l.dir.nft(ctx, rules))
}

func (l *Lab) checkPair(p pair) error {
	for _, who := range []string{p.from, p.to} {
		if who != clientName && l.Node(who) == nil {
			return fmt.Errorf("lab %s has no node %q: use %v or %s", l.Name(), who, l.names(), clientName)
		}
	}
	if p.from == p.to {
		return fmt.Errorf("a cable needs two ends, not %s twice", p.from)
	}
	return nil
}

// logged records a verb that touched cables in the power log, if it worked.
func (l *Lab) logged(_ context.Context, verb, what string, err error) error {
	if err != nil {
		return err
	}
	return l.log.add(PowerEvent{Node: what, Verb: verb, Phase: PhaseDone, By: "lab"})
}
