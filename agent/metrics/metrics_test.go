package metrics

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/understudy-ha/understudy/agent/api"
)

func node() Node {
	now := time.Unix(1_800_000_000, 0)
	return Node{
		At: now, Software: "v1", Health: api.NodeHealth{PodmanOK: true, StoreFree: 3 << 30, StoreTotal: 8 << 30},
		Peers: []api.NodeStatus{{Node: "n2", Alive: true, ClockOffset: api.Duration(-time.Millisecond)}},
		Services: []Service{{
			ServiceStatus: api.ServiceStatus{
				Service: "registry", Role: api.RoleStandby, Health: api.HealthHealthy, Term: 3, Score: 90,
				FreshAt: now.Add(-1500 * time.Millisecond).UnixNano(), Scrubbed: now.Add(-time.Hour).UnixNano(),
				FreezeP50: api.Duration(20 * time.Millisecond), FreezeP99: api.Duration(40 * time.Millisecond), FreezeMax: api.Duration(50 * time.Millisecond),
				Suspects: []api.Suspect{{First: "3.4"}}, Held: "3.3", Lacks: 2, Sockets: 5, Space: api.SpaceShort,
			},
			Generations: 30, Kept: 1 << 20, Sealed: 4, Read: 4096, Freezes: 7, Frozen: 140 * time.Millisecond,
			Findings: map[bool]int64{true: 2, false: 1},
			Copies:   []Copy{{Node: "n2", Age: 2 * time.Second, Generations: 4, Bytes: 9000}, {Node: "n3", Age: -1}},
		}, {ServiceStatus: api.ServiceStatus{Service: "wiki", Role: api.RoleActive, Space: api.SpaceFull}}},
	}
}

func TestText(t *testing.T) {
	w := httptest.NewRecorder()
	Handler(node, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	lines := strings.Split(w.Body.String(), "\n")
	for _, want := range []string{
		`understudy_build_info{version="v1"} 1`,
		`understudy_podman_up 1`,
		`understudy_store_free_bytes 3.221225472e+09`,
		`understudy_peer_up{peer="n2"} 1`,
		`understudy_active{service="registry"} 0`,
		`understudy_standby{service="registry"} 1`,
		`understudy_generation_age_seconds{service="registry"} 1.5`,
		`understudy_scrub_age_seconds{service="registry"} 3600`,
		`understudy_freeze_seconds{service="registry",quantile="0.99"} 0.04`,
		`understudy_freeze_seconds_count{service="registry"} 7`,
		`understudy_freeze_seconds_sum{service="registry"} 0.14`,
		`understudy_suspect{service="registry"} 1`,
		`understudy_held{service="registry"} 1`,
		`understudy_lacking{service="registry"} 2`,
		`understudy_sockets{service="registry"} 5`,
		`understudy_history_thinned{service="registry"} 1`,
		`understudy_store_full{service="registry"} 0`,
		`understudy_store_full{service="wiki"} 1`,
		`understudy_scrub_findings_total{mended="false",service="registry"} 1`,
		`understudy_scrub_findings_total{mended="true",service="registry"} 2`,
		`understudy_kept_bytes{service="registry"} 1.048576e+06`,
		`understudy_lag_seconds{peer="n2",service="registry"} 2`,
		`understudy_sent_bytes_total{peer="n2",service="registry"} 9000`,
		`understudy_sent_bytes_total{peer="n3",service="registry"} 0`,
	} {
		found := false
		for _, l := range lines {
			found = found || l == want
		}
		if !found {
			t.Errorf("%s is not told", want)
		}
	}
	if strings.Contains(w.Body.String(), `understudy_lag_seconds{peer="n3"`) {
		t.Error("a lag is told of a peer that nothing is known of")
	}
	if t.Failed() {
		t.Log(w.Body.String())
	}
}

// TestNames holds the figures to Prometheus' rules for names, units and help.
func TestNames(t *testing.T) {
	problems, err := testutil.CollectAndLint(collector{node})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
