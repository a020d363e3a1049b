// Package metrics tells a monitoring system, in Prometheus' text format, how this node
// stands: its services, the copies it keeps of them, and its peers. Each figure is looked
// up when it is asked for; nothing is gathered in between.
package metrics

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/understudy-ha/understudy/agent/api"
)

// Node is what is told.
type Node struct {
	At       time.Time
	Software string
	Health   api.NodeHealth
	Peers    []api.NodeStatus
	Services []Service
}

// Service is one of the node's services, as this node has it.
type Service struct {
	api.ServiceStatus
	Generations int    // that are kept
	Kept        int64  // bytes on disk of all that is kept
	Sealed      int64  // generations, since the agent began
	Read        int64  // bytes of content that captures read, since then
	Freezes     uint64 // of containers, for captures that were dropped too, since then
	Frozen      time.Duration
	Findings    map[bool]int64 // of scrubs since then, by whether they were mended
	Copies      []Copy
}

// Copy is another node's copy of the service.
type Copy struct {
	Node        string
	Age         time.Duration // what would be lost with this node; negative: not known
	Generations int64         // sent to it since the agent began
	Bytes       int64         // of packs and manifests, since then
}

// Handler answers each request with what source says.
func Handler(source func() Node, log *slog.Logger) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collector{source})
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)})
}

type collector struct{ source func() Node }

// Describe says nothing: which figures there are depends on the services.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect looks everything up.
func (c collector) Collect(out chan<- prometheus.Metric) {
	n := c.source()
	out <- prometheus.MustNewConstMetric(build, prometheus.GaugeValue, 1, n.Software)
	for _, f := range ofNode {
		f.send(out, n)
	}
	for _, p := range n.Peers {
		for _, f := range ofPeer {
			f.send(out, p, p.Node)
		}
	}
	for _, s := range n.Services {
		for _, f := range ofService {
			f.send(out, at{s, n.At}, s.Service)
		}
		out <- prometheus.MustNewConstSummary(freezes, s.Freezes, s.Frozen.Seconds(), map[float64]float64{
			0.5: seconds(s.FreezeP50), 0.99: seconds(s.FreezeP99), 1: seconds(s.FreezeMax),
		}, s.Service)
		for mended, text := range map[bool]string{true: "true", false: "false"} {
			out <- prometheus.MustNewConstMetric(findings, prometheus.CounterValue, float64(s.Findings[mended]), s.Service, text)
		}
		for _, c := range s.Copies {
			for _, f := range ofCopy {
				f.send(out, c, s.Service, c.Node)
			}
		}
	}
}

func seconds(d api.Duration) float64 { return time.Duration(d).Seconds() }
