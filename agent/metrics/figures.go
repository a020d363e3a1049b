package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-ha/understudy/agent/api"
)

// figure is one number of a T. A figure without a value is left out.
type figure[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(T) (float64, bool)
}

func (f figure[T]) send(out chan<- prometheus.Metric, of T, labels ...string) {
	if v, ok := f.value(of); ok {
		out <- prometheus.MustNewConstMetric(f.desc, f.kind, v, labels...)
	}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("understudy_"+name, help, labels, nil)
}

func gauge[T any](name, help string, labels []string, value func(T) float64) figure[T] {
	return figure[T]{describe(name, help, labels...), prometheus.GaugeValue, func(of T) (float64, bool) { return value(of), true }}
}

func counter[T any](name, help string, labels []string, value func(T) int64) figure[T] {
	return figure[T]{describe(name, help, labels...), prometheus.CounterValue, func(of T) (float64, bool) { return float64(value(of)), true }}
}

// known is a gauge that is left out where the value is negative.
func known[T any](name, help string, labels []string, value func(T) float64) figure[T] {
	return figure[T]{describe(name, help, labels...), prometheus.GaugeValue, func(of T) (float64, bool) { v := value(of); return v, v >= 0 }}
}

func yes(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// at is a service at a time.
type at struct {
	Service
	now time.Time
}

// since is how long ago a time in Unix ns was, in seconds; negative: there was none.
func (a at) since(ns int64) float64 {
	if ns == 0 {
		return -1
	}
	return max(0, a.now.Sub(time.Unix(0, ns)).Seconds())
}

var (
	service = []string{"service"}
	peer    = []string{"peer"}
	both    = []string{"service", "peer"}

	build    = describe("build_info", "The agent's version.", "version")
	freezes  = describe("freeze_seconds", "How long the service's containers stood still for a capture, one that was dropped too. The quantiles are of the latest 512.", "service")
	findings = describe("scrub_findings_total", "What scrubs found damaged since the agent began, by whether it was mended on the spot.", "service", "mended")
)

var ofNode = []figure[Node]{
	gauge("podman_up", "Whether Podman answers on this node.", nil, func(n Node) float64 { return yes(n.Health.PodmanOK) }),
	gauge("store_free_bytes", "What the file system of the stores has left.", nil, func(n Node) float64 { return float64(n.Health.StoreFree) }),
	gauge("store_size_bytes", "The file system of the stores.", nil, func(n Node) float64 { return float64(n.Health.StoreTotal) }),
}

var ofPeer = []figure[api.NodeStatus]{
	gauge("peer_up", "Whether the peer's agent is heard of.", peer, func(n api.NodeStatus) float64 { return yes(n.Alive) }),
	gauge("peer_clock_offset_seconds", "How far the peer's clock is ahead of this node's.", peer, func(n api.NodeStatus) float64 { return seconds(n.ClockOffset) }),
}

var ofService = []figure[at]{
	gauge("active", "Whether the service is active on this node.", service, func(s at) float64 { return yes(s.Role == api.RoleActive) }),
	gauge("standby", "Whether this node stands by for the service.", service, func(s at) float64 { return yes(s.Role == api.RoleStandby) }),
	gauge("healthy", "Whether the service is healthy here, as far as its health check is known.", service, func(s at) float64 { return yes(s.Health == api.HealthHealthy) }),
	gauge("term", "The highest term that this node knows.", service, func(s at) float64 { return float64(s.Term) }),
	gauge("promotion_score", "Pacemaker's promotion score of this node; 0: it must not be promoted.", service, func(s at) float64 { return float64(s.Score) }),
	gauge("blockers", "What stops a takeover by this node.", service, func(s at) float64 { return float64(len(s.Blockers)) }),
	gauge("warnings", "What status warns of.", service, func(s at) float64 { return float64(len(s.Warnings)) }),
	known("generation_age_seconds", "How old the newest data is that this node has: on a standby, what a takeover now would lose.", service, func(s at) float64 { return s.since(s.FreshAt) }),
	counter("sealed_generations_total", "Generations that this node sealed since the agent began.", service, func(s at) int64 { return s.Sealed }),
	counter("captured_bytes_total", "Content that captures read since the agent began.", service, func(s at) int64 { return s.Read }),
	gauge("sockets", "Sockets in the volumes, as of the last capture here: they are not replicated. 0 where the service is not active.", service, func(s at) float64 { return float64(s.Sockets) }),
	gauge("kept_generations", "Generations that this node keeps.", service, func(s at) float64 { return float64(s.Generations) }),
	gauge("kept_bytes", "What the service's store takes on this node's disk.", service, func(s at) float64 { return float64(s.Kept) }),
	gauge("history_thinned", "Whether history gives way as the store's disk is short of room.", service, func(s at) float64 { return yes(s.Space != "") }),
	gauge("store_full", "Whether nothing new is sealed or received as the store's disk is full.", service, func(s at) float64 { return yes(s.Space == api.SpaceFull) }),
	gauge("diverged_generations", "Archived generations that nobody else had received.", service, func(s at) float64 { return float64(len(s.Diverged)) }),
	gauge("suspect", "Runs of received generations that look like an attack on the data, until a person releases them.", service, func(s at) float64 { return float64(len(s.Suspects)) }),
	gauge("held", "Whether this node stays at an older generation because what follows is suspect.", service, func(s at) float64 { return yes(s.Held != "") }),
	gauge("lacking", "Chunks and generations that the disk has lost and no other node has sent again.", service, func(s at) float64 { return float64(s.Lacks) }),
	known("scrub_age_seconds", "How long ago all that is kept was verified.", service, func(s at) float64 { return s.since(s.Scrubbed) }),
}

var ofCopy = []figure[Copy]{
	known("lag_seconds", "How old the peer's copy of the data is: what would be lost with this node now.", both, func(c Copy) float64 { return c.Age.Seconds() }),
	counter("sent_generations_total", "Generations sent to the peer since the agent began.", both, func(c Copy) int64 { return c.Generations }),
	counter("sent_bytes_total", "Packs and manifests sent to the peer since the agent began.", both, func(c Copy) int64 { return c.Bytes }),
}
