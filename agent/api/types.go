package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Version is the version of the control protocol and of the gossiped state.
// Agents whose versions differ by more than their minimum refuse each other by name.
const Version = 1

// Well-known paths. Configuration can move the store and the socket;
// RunDir cannot be moved: the resource agent and a crashed agent's successor look there.
const (
	ConfigPath    = "/etc/understudy/agent.toml"
	DefaultSocket = "/run/understudy/agent.sock"
	DefaultStore  = "/var/lib/understudy"
	RunDir        = "/run/understudy"
)

// Role is what a node is for a service.
type Role string

// The roles, as Pacemaker knows them: stopped, unpromoted, promoted.
const (
	RoleStopped Role = "stopped"
	RoleStandby Role = "standby"
	RoleActive  Role = "active"
)

// Health of a service's containers on one node.
type Health string

// The healths. Starting counts as healthy for Pacemaker: a HEALTHCHECK's start
// period is not a failure.
const (
	HealthUnknown   Health = "unknown"   // Podman did not answer; processes are there
	HealthHealthy   Health = "healthy"   // every process runs, every HEALTHCHECK passes or is absent
	HealthStarting  Health = "starting"  // in a HEALTHCHECK's start period
	HealthUnhealthy Health = "unhealthy" // a HEALTHCHECK fails; processes run
	HealthFailed    Health = "failed"    // a process or an address of the service is gone
)

// Duration is a time.Duration that reads and writes as text ("1.5s") in JSON.
type Duration time.Duration

// MarshalJSON writes the duration as Go's text form.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads Go's text form.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("a duration is text such as \"1s\": %w", err)
	}
	v, err := time.ParseDuration(s)
	*d = Duration(v)
	return err
}

// String is time.Duration's text.
func (d Duration) String() string { return time.Duration(d).String() }

// What an unhealthy HEALTHCHECK does to the service (parameter on-unhealthy).
const (
	OnUnhealthyDegraded = "degraded" // report 190/191: shown in status, nothing moves
	OnUnhealthyFail     = "fail"     // report a failure: Pacemaker recovers the service
	OnUnhealthyIgnore   = "ignore"   // report running
)

// What a duplicate of a virtual IP on the network does to a promotion (parameter vip-conflict).
const (
	ConflictRefuse = "refuse" // the promotion fails, naming the other MAC
	ConflictTake   = "take"   // announce over it: for networks where a stale holder cannot be reached
)

// How a service's data is taken (parameter consistency).
const (
	ConsistencyFrozen = "frozen" // all containers stand still for the instant
	ConsistencyHooks  = "hooks"  // and before that a command in a container has made the data ready
	ConsistencyNone   = "none"   // nothing stands still: a generation is not of one instant
)

// How a store's disk stands.
const (
	SpaceShort = "short" // history gives way
	SpaceFull  = "full"  // nothing new is sealed or received
)

// What becomes of a generation that looks like an attack on the data (parameter on-suspect).
const (
	OnSuspectAlarm = "alarm" // it is told; the standby follows as always
	OnSuspectHold  = "hold"  // the standby keeps it and does not apply it until a person releases it
)

// What becomes of the content of bind mounts (parameter bind-mounts).
const (
	BindsList      = "list"      // nothing: they are named in status and ready
	BindsReplicate = "replicate" // it is replicated like a volume's
)

// Spec is a service as its resource parameters in the CIB define it. The CIB is
// the only source; the agent keeps the last one it was told so that it can
// carry on after its own restart.
type Spec struct {
	Service string   `json:"service"`
	VIPs    []string `json:"vips,omitempty"` // addresses with prefix, v4 or v6
	NIC     string   `json:"nic,omitempty"`  // empty: the interface that has the address's subnet
	// The workload: containers by name, pods with all their containers, quadlet units by
	// file name, Kubernetes YAML by path. At least one of them is set.
	Containers []string `json:"containers"` // in the order in which they are started; see Named
	Pods       []string `json:"pods,omitempty"`
	Quadlet    []string `json:"quadlet,omitempty"`
	Kube       []string `json:"kube,omitempty"`
	// Set by the agent, which puts into Containers everything that the workload comes to:
	// Named is what was named there, Absent what of the workload this node does not have.
	Named  []string `json:"named,omitempty"`
	Absent []string `json:"absent,omitempty"`

	Volumes     []string `json:"volumes,omitempty"` // empty: all that the containers mount
	BindMounts  string   `json:"bind_mounts,omitempty"`
	Interval    Duration `json:"interval"` // between captures
	MaxRPO      Duration `json:"max_rpo"`  // a replica older than this is not promoted
	FreezeMax   Duration `json:"freeze_max"`
	StopTimeout Duration `json:"stop_timeout"` // grace for a container's own shutdown before SIGKILL; never beyond the operation's deadline
	OnUnhealthy string   `json:"on_unhealthy"`
	VIPConflict string   `json:"vip_conflict"`
	OnSuspect   string   `json:"on_suspect,omitempty"` // empty: alarm

	Consistency   string   `json:"consistency,omitempty"`    // empty: frozen
	BeforeCapture []string `json:"before_capture,omitempty"` // a container, then a command and its arguments to run in it
	AfterCapture  []string `json:"after_capture,omitempty"`
	HookTimeout   Duration `json:"hook_timeout,omitempty"` // for each of the two
}

// Empty says that no workload is named: an order without valid parameters.
func (s Spec) Empty() bool { return len(s.Containers) == 0 && !s.Indirect() }

// Indirect says that the workload is not only containers by their names.
func (s Spec) Indirect() bool { return len(s.Pods)+len(s.Quadlet)+len(s.Kube) > 0 }

// SameWorkload says whether both name the same workload, whatever it comes to.
func (s Spec) SameWorkload(o Spec) bool {
	return slices.Equal(s.named(), o.named()) && slices.Equal(s.Pods, o.Pods) && slices.Equal(s.Quadlet, o.Quadlet) && slices.Equal(s.Kube, o.Kube)
}

func (s Spec) named() []string {
	if s.Named != nil || s.Indirect() {
		return s.Named
	}
	return s.Containers
}

// WithWorkload is s with the workload of o.
func (s Spec) WithWorkload(o Spec) Spec {
	s.Containers, s.Pods, s.Quadlet, s.Kube, s.Named, s.Absent = o.Containers, o.Pods, o.Quadlet, o.Kube, o.Named, o.Absent
	return s
}

// Defaults of the parameters, as `pcs resource describe` shows them.
const (
	DefaultInterval    = Duration(time.Second)
	DefaultMaxRPO      = Duration(5 * time.Minute)
	DefaultFreezeMax   = Duration(500 * time.Millisecond)
	DefaultStopTimeout = Duration(10 * time.Second)
	DefaultHookTimeout = Duration(5 * time.Second)
)

// ActionRequest asks the agent to do one action of the resource agent.
type ActionRequest struct {
	Spec  Spec `json:"spec"`
	Probe bool `json:"probe,omitempty"` // monitor only: interval 0
}

// ActionResult is what is true of the service on this node after the action.
type ActionResult struct {
	Role    Role   `json:"role"`
	Health  Health `json:"health"`
	Term    uint64 `json:"term,omitempty"`
	Message string `json:"message,omitempty"` // one line for the operator; shown as the exit reason
	// Problem is what to look after though the service works: monitor calls it degraded.
	Problem string `json:"problem,omitempty"`
}

// ServiceStatus is one node's view of one service, as gossiped and shown.
type ServiceStatus struct {
	Service   string `json:"service"`
	Role      Role   `json:"role"`
	Health    Health `json:"health"`
	Term      uint64 `json:"term"`                // highest term this node knows
	Committed string `json:"committed,omitempty"` // generation committed last, "term.sequence"
	Applied   string `json:"applied,omitempty"`   // generation the live tree is at
	FreshAt   int64  `json:"fresh_at"`            // Unix ns: the data was at the committed generation at least until then (by the clock of the node that says so)
	Clean     bool   `json:"clean,omitempty"`     // demoted, and what was sealed last is on another node
	Base      string `json:"base,omitempty"`      // active: the generation its term started from
	// Ends: active: the sequence with which each of the newest earlier terms ended in its history.
	Ends      map[uint64]uint64 `json:"ends,omitempty"`
	VIPs      []string          `json:"vips,omitempty"`     // addresses held
	Images    []string          `json:"images,omitempty"`   // image IDs the service needs that are present
	Missing   []string          `json:"missing,omitempty"`  // image IDs it needs that are not
	Score     int               `json:"score"`              // promotion score, 0: must not be promoted
	Blockers  []string          `json:"blockers,omitempty"` // what stops a takeover on this node, in words
	Warnings  []string          `json:"warnings,omitempty"`
	Loose     bool              `json:"loose,omitempty"`   // active, with consistency=none: what is captured is not of one instant
	Sockets   int               `json:"sockets,omitempty"` // active: in the volumes; they are left out of what is captured
	FreezeP50 Duration          `json:"freeze_p50,omitempty"`
	FreezeP99 Duration          `json:"freeze_p99,omitempty"`
	FreezeMax Duration          `json:"freeze_max,omitempty"`
	Diverged  []string          `json:"diverged,omitempty"` // archived diverged generations held here
	Lacks     int               `json:"lacks,omitempty"`    // chunks and generations that its disk has forgotten
	Suspects  []Suspect         `json:"suspects,omitempty"` // what this node received and looks like an attack on the data
	Held      string            `json:"held,omitempty"`     // the generation that a promotion of this node goes on from, as what follows is suspect
	Space     string            `json:"space,omitempty"`    // how the store's disk stands: SpaceShort, SpaceFull; empty: well
	Scrubbed  int64             `json:"scrubbed,omitempty"` // Unix ns: all that is kept was verified last then (by the clock of the node that says so)
}

// Suspect is a run of generations that look like an attack on the data, until a person
// releases them.
type Suspect struct {
	First  string    `json:"first"`
	Last   string    `json:"last"`
	Before string    `json:"before"` // the generation before them, pinned
	At     time.Time `json:"at"`     // that node's clock
	Why    string    `json:"why"`
	Undone string    `json:"undone,omitempty"` // the generation that took the data back
}

// NodeHealth is what a node says of itself.
type NodeHealth struct {
	PodmanOK      bool    `json:"podman_ok"`
	PodmanVersion string  `json:"podman_version,omitempty"`
	PodmanError   string  `json:"podman_error,omitempty"`
	StoreFree     uint64  `json:"store_free"`  // bytes
	StoreTotal    uint64  `json:"store_total"` // bytes
	Load1         float64 `json:"load1"`
	CPUs          int     `json:"cpus"`
}

// NodeStatus is one node's state as gossiped. A newer Seq of the same Incarnation
// replaces an older one; a newer Incarnation replaces any.
type NodeStatus struct {
	Version     int             `json:"version"`
	Node        string          `json:"node"`
	Software    string          `json:"software"`    // understudy's own version
	Incarnation int64           `json:"incarnation"` // Unix ns of the agent's start
	Seq         uint64          `json:"seq"`
	At          int64           `json:"at"` // Unix ns, this node's clock
	Health      NodeHealth      `json:"health"`
	Services    []ServiceStatus `json:"services"`

	// Set by the one who reads the gossip, never sent.
	Alive       bool     `json:"alive"`
	Self        bool     `json:"self,omitempty"`
	SeenAgo     Duration `json:"seen_ago"`
	ClockOffset Duration `json:"clock_offset"` // that node's clock minus ours, ± half a round trip
}

// Status is the answer of GET /v1/status: this node first, then peers by name.
type Status struct {
	Nodes []NodeStatus `json:"nodes"`
}

// Readiness is the answer of GET /v1/services/{name}/ready.
type Readiness struct {
	Service  string   `json:"service"`
	Ready    bool     `json:"ready"`
	Active   string   `json:"active,omitempty"`  // node
	Standby  string   `json:"standby,omitempty"` // the node that would take over
	RPO      Duration `json:"rpo"`               // data lost if the active failed now
	Blockers []string `json:"blockers,omitempty"`
	Caveats  []string `json:"caveats,omitempty"` // what does not move with the service, such as the content of bind mounts
}

// Decision is an entry of the decision journal: something that was decided or
// refused about a service, with its reason, so that a person can follow it later.
type Decision struct {
	Seq     uint64            `json:"seq,omitempty"` // order within the node's journal; At may jump back with the clock
	At      time.Time         `json:"at"`
	Node    string            `json:"node"`
	Service string            `json:"service,omitempty"`
	Event   string            `json:"event"` // see the Event constants
	Term    uint64            `json:"term,omitempty"`
	Reason  string            `json:"reason"`
	Took    Duration          `json:"took,omitempty"`
	Fields  map[string]string `json:"fields,omitempty"`
}

// Events of the decision journal. Steps inside a promotion are "promote-step"
// with the field "step".
const (
	EventAgentStart  = "agent-start"
	EventStart       = "start"
	EventPromote     = "promote"
	EventPromoteStep = "promote-step"
	EventRefuse      = "refuse"
	EventDemote      = "demote"
	EventStop        = "stop"
	EventForced      = "forced"
	EventDiverged    = "diverged"
	EventRecover     = "recover"
	EventReload      = "reload"
	EventReplication = "replication"
	EventRestore     = "restore"
	EventAlarm       = "alarm" // somebody may be tampering: a person has to look
	EventScrub       = "scrub"
	EventSuspect     = "suspect"
	EventSpace       = "space"
)
