package agent

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// healthEvery is how often the node looks at itself.
const healthEvery = 2 * time.Second

// health is what the node says of itself, looked at in the background so that
// gossip and status never wait for Podman.
type health struct {
	ping  func(ctx context.Context) (string, error)
	store string

	mu   sync.Mutex // guards last
	last api.NodeHealth
}

func (h *health) run(ctx context.Context) {
	for {
		h.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(healthEvery):
		}
	}
}

func (h *health) look(ctx context.Context) {
	pctx, cancel := context.WithTimeout(ctx, healthEvery)
	defer cancel()
	n := api.NodeHealth{CPUs: runtime.NumCPU()}
	version, err := h.ping(pctx)
	if ctx.Err() != nil {
		return
	}
	n.PodmanOK, n.PodmanVersion = err == nil, version
	if err != nil {
		n.PodmanError = err.Error()
	}
	var fs syscall.Statfs_t
	if syscall.Statfs(h.store, &fs) == nil {
		n.StoreFree, n.StoreTotal = fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize)
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 0 {
			n.Load1, _ = strconv.ParseFloat(f[0], 64)
		}
	}
	h.mu.Lock()
	h.last = n
	h.mu.Unlock()
}

func (h *health) get() api.NodeHealth {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}
