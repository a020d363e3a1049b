package agent

import (
	"net/http"

	"github.com/understudy-ha/understudy/agent/metrics"
	"github.com/understudy-ha/understudy/agent/service"
)

// Metrics answers with this node's figures.
func (a *Agent) Metrics() http.Handler { return metrics.Handler(a.figures, a.log) }

func (a *Agent) figures() metrics.Node {
	self := a.local()
	n := metrics.Node{At: a.now(), Software: self.Software, Health: self.Health, Peers: a.gossip.Peers()}
	for i, s := range a.list() {
		if i >= len(self.Services) || self.Services[i].Service != s.Name() {
			break // one was taken in right now
		}
		of := metrics.Service{ServiceStatus: self.Services[i], Findings: s.scrub.findings()}
		c := s.engine.Counts()
		of.Sealed, of.Read, of.Freezes, of.Frozen = c.Sealed, c.Read, c.Freezes, c.Frozen
		if ids, err := s.engine.Store().Generations(); err == nil {
			of.Generations = len(ids)
		}
		if n, err := diskUse(s.engine.Store().Dir()); err == nil {
			of.Kept = n
		}
		for _, p := range a.peers.list {
			of.Copies = append(of.Copies, p.copyOf(s.Name(), n))
		}
		n.Services = append(n.Services, of)
	}
	return n
}

// copyOf is what the peer has of a service, as far as it is known.
func (p *peer) copyOf(name string, n metrics.Node) metrics.Copy {
	p.mu.Lock()
	c := metrics.Copy{Node: p.name, Age: -1, Generations: p.counts[name].generations, Bytes: p.counts[name].bytes}
	p.mu.Unlock()
	for _, peer := range n.Peers {
		for _, st := range peer.Services {
			if peer.Node == p.name && st.Service == name && st.FreshAt != 0 {
				c.Age = service.Age(st, peer, n.At)
			}
		}
	}
	return c
}
