//go:build lab

package e2e

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

// truth is what the machine's kernel says of a node. Nobody on the node is asked.
type truth struct {
	power     bool
	addresses []string       // of the node, both families
	programs  map[string]int // first words of containers' programs that run → process id on the machine
	waiting   int            // processes of containers that are only initialised
}

// look reads a node's truth. A node that loses power meanwhile has none of it.
func look(n *lab.Node) truth {
	tr := truth{power: n.Running(), programs: map[string]int{}}
	if !tr.power {
		return tr
	}
	proc := strings.TrimSuffix(n.HostPath("/"), "/root/")
	if trie, err := os.ReadFile(proc + "/net/fib_trie"); err == nil {
		tr.addresses = localAddresses(string(trie))
	}
	if list, err := os.ReadFile(proc + "/net/if_inet6"); err == nil {
		tr.addresses = append(tr.addresses, localAddresses6(string(list))...)
	}
	for _, pid := range containerProcesses(n) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		name := strings.TrimSpace(string(comm))
		switch {
		case err != nil: // it has just ended
		case strings.HasPrefix(name, "runc"):
			tr.waiting++
		default:
			tr.programs[name] = pid
		}
	}
	return tr
}

// containerProcesses are the processes in containers' cgroups, as the machine numbers them.
func containerProcesses(n *lab.Node) []int {
	files, _ := filepath.Glob(n.HostPath("/sys/fs/cgroup/libpod_parent/libpod-*/cgroup.procs"))
	deeper, _ := filepath.Glob(n.HostPath("/sys/fs/cgroup/libpod_parent/libpod-*/*/cgroup.procs"))
	return pidsIn(append(files, deeper...)...)
}

func pidsIn(files ...string) []int {
	var pids []int
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, line := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(line); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// localAddresses reads the addresses of a namespace from its fib_trie: an address
// is followed by a line that calls it LOCAL.
func localAddresses(trie string) []string {
	var list []string
	last := ""
	for line := range strings.Lines(trie) {
		line = strings.TrimSpace(line)
		if a, ok := strings.CutPrefix(line, "|-- "); ok {
			last = a
		} else if line == "/32 host LOCAL" && !slices.Contains(list, last) {
			list = append(list, last)
		}
	}
	return list
}

// localAddresses6 reads those of if_inet6: 32 hexadecimal digits begin each line.
func localAddresses6(list string) []string {
	var out []string
	for line := range strings.Lines(list) {
		digits, _, _ := strings.Cut(line, " ")
		if b, err := hex.DecodeString(digits); err == nil {
			if a, ok := netip.AddrFromSlice(b); ok {
				out = append(out, a.String())
			}
		}
	}
	return out
}

func (tr truth) holds(address string) bool { return slices.Contains(tr.addresses, address) }

// active says that clients could be served by this node: invariant 1 is about it.
func (tr truth) active() bool {
	return tr.power && tr.holds(stack.VIP) && tr.programs["ledger"] > 0
}

// nothing fails the test if anything of the service is on the node.
func (tr truth) nothing(t *testing.T, n *lab.Node, address string, programs ...string) {
	t.Helper()
	if tr.holds(address) {
		t.Errorf("address %s is still on %s", address, n.Name())
	}
	for _, p := range programs {
		if tr.programs[p] != 0 {
			t.Errorf("%s still runs on %s", p, n.Name())
		}
	}
}

// watch is a look at all nodes again and again.
type watch struct {
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex // guards what follows
	looks  int
	two    []string       // moments with two active nodes
	active map[string]int // how often each node was active
}

// watching looks at all nodes until it is ended.
func (c *cluster) watching(t *testing.T, every time.Duration) *watch {
	w := &watch{stop: make(chan struct{}), done: make(chan struct{}), active: map[string]int{}}
	go func() {
		defer close(w.done)
		for {
			w.look(c.Nodes())
			select {
			case <-w.stop:
				return
			case <-time.After(every):
			}
		}
	}()
	t.Cleanup(w.end)
	return w
}

func (w *watch) look(nodes []*lab.Node) {
	var active []string
	at := time.Now()
	for _, n := range nodes {
		if look(n).active() {
			active = append(active, n.Name())
		}
	}
	if len(active) > 1 {
		// The looks were one after the other: is the first one still active?
		active = slices.DeleteFunc(active, func(name string) bool {
			i := slices.IndexFunc(nodes, func(n *lab.Node) bool { return n.Name() == name })
			return !look(nodes[i]).active()
		})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	for _, name := range active {
		w.active[name]++
	}
	if len(active) > 1 {
		w.two = append(w.two, fmt.Sprintf("%s: %v", at.Format("15:04:05.000"), active))
	}
}

func (w *watch) end() {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	<-w.done
}

// neverTwo ends the watch; it fails the test if two nodes were active at once.
func (w *watch) neverTwo(t *testing.T) {
	t.Helper()
	w.end()
	if len(w.two) > 0 {
		t.Errorf("two nodes were active in %d of %d looks: %v", len(w.two), w.looks, w.two)
	}
	if w.looks < 10 {
		t.Errorf("the watch looked %d times only", w.looks)
	}
	t.Logf("%d looks; active in so many: %v", w.looks, w.active)
}

// freezers are the files that say whether a container is frozen.
func freezers(n *lab.Node) []string {
	files, _ := filepath.Glob(n.HostPath("/sys/fs/cgroup/libpod_parent/libpod-*/cgroup.freeze"))
	return files
}

// frozen counts containers that are held by the freezer now.
func frozen(n *lab.Node) int {
	count := 0
	for _, f := range freezers(n) {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == "1" {
			count++
		}
	}
	return count
}

// volumeFile is where the machine finds a file of a volume on a running node.
func volumeFile(n *lab.Node, volume, file string) string {
	return n.HostPath("/var/lib/containers/storage/volumes/" + volume + "/_data/" + file)
}

// archived reads the ledger out of a diverged generation on a node.
func archived(t *testing.T, n *lab.Node, name string) string {
	t.Helper()
	s, err := store.Open(n.HostPath("/var/lib/understudy"), stack.Service, store.Options{})
	must(t, err)
	defer s.Close()
	m, err := s.LoadDiverged(name)
	must(t, err)
	var text strings.Builder
	for _, v := range m.Volumes {
		for e := range v.Entries.All() {
			if v.Name != "ledger-data" || e.Path != "ledger" {
				continue
			}
			for _, chunk := range e.Chunks {
				b, err := s.Get(chunk.Hash)
				must(t, err)
				text.Write(b)
			}
		}
	}
	return text.String()
}
