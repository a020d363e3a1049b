package service

import (
	"context"
	"errors"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// ErrNoContainer is what a Runtime answers for a container that does not exist.
var ErrNoContainer = errors.New("no such container")

// ErrNeedsAddress is what a Runtime answers for a container that cannot be set up
// or started while the virtual IP is not on the node: it publishes a port there alone.
var ErrNeedsAddress = errors.New("the address of a published port is not on this node")

// ErrAlarm is what an error of Peers is when a person has to look: the peer may not be
// who it was.
var ErrAlarm = errors.New("alarm")

// Container is what a service needs to know of a container.
type Container struct {
	Name, ID    string
	Running     bool // its process was started and has not ended (also when paused)
	Initialised bool // created and set up, its process waits to be started
	PID         int
	StartTime   uint64 // of the process, as in /proc/PID/stat field 22
	Cgroup      string // path below the cgroup2 mount
	StopSignal  string // name or number
	Infra       bool   // it holds the namespaces of a pod: on a standby it may run, and then it is Initialised
	Health      api.Health
	Trees       map[string]string // trees that it mounts (see Definition.Volumes), each with where it has it
}

// Definition is what re-creates a service's containers elsewhere.
type Definition struct {
	Bytes   []byte            // opaque, stable: equal definitions have equal bytes
	Names   []string          // containers, in the order in which they are started
	Infra   map[string]string // container in a pod → the container that holds the pod's namespaces
	Images  []string          // image IDs
	Binds   []string          // of Volumes: those that are bind mounts' directories
	Volumes []string          // trees that are replicated: volumes, and bind mounts where that was asked for
	Chowns  bool              // setting a container up changes the trees
}

// Runtime is Podman, as far as a service needs it. Every call ends by its
// context's deadline, also when Podman hangs. All may be called concurrently.
type Runtime interface {
	Inspect(ctx context.Context, name string) (Container, error)
	// Problems names what could not be carried faithfully to a standby, and
	// what would start a container behind Pacemaker's back; caveats are what is
	// carried, but not quite as it is, or not with its content.
	Problems(ctx context.Context, spec api.Spec) (problems, caveats []string, err error)
	// Members are all containers that the workload comes to on this node; absent is what
	// of it is not there, in words.
	Members(ctx context.Context, spec api.Spec) (names, absent []string, err error)
	// UnitProblems names what of the workload's units could not be carried.
	UnitProblems(spec api.Spec) ([]string, error)
	// Adopt takes what systemd starts of the workload out of its hands, and says what it
	// did. make: what exists only as a unit yet is made of it.
	Adopt(ctx context.Context, spec api.Spec, make bool) ([]string, error)
	Define(ctx context.Context, spec api.Spec) (Definition, error)
	Parse(definition []byte) (Definition, error)
	// Realise makes networks, volumes and containers as defined, without
	// starting any. It says what it changed; a running container is never touched.
	Realise(ctx context.Context, definition []byte) ([]string, error)
	// VolumePaths finds the root directory of each volume; a volume that Podman does not know, or
	// a bind mount's directory that is not there, is missing from the answer.
	VolumePaths(ctx context.Context, names []string) (map[string]string, error)
	Init(ctx context.Context, name string) error
	Start(ctx context.Context, name string) error
	Stop(ctx context.Context, name string, grace time.Duration) error
	// Exec runs a command in a running container and waits for its end; an exit
	// code is an error. When ctx ends first, the command is ended too.
	Exec(ctx context.Context, container string, command []string) error
	// Neutralise turns off what would start the container at boot.
	Neutralise(ctx context.Context, name string) error
	Images(ctx context.Context) (images, layers []string, err error)
	ExportImage(ctx context.Context, id, path string) error
	LoadImage(ctx context.Context, path string) (id string, err error)
	// DamagedImages are those of the images that the storage has lost some of, as far as is
	// known: they are looked at in the background.
	DamagedImages(ids []string) []string
	// RepairImage makes a damaged image anew from what was kept when it arrived; where that is
	// not enough it is gone from the node afterwards, and is sent again. Containers of it are
	// removed, none that runs. mine are all images of the service.
	RepairImage(ctx context.Context, id string, mine []string) (reloaded bool, err error)
}

// Processes proves what runs without asking Podman (invariant 6).
type Processes interface {
	// Running says whether the container's own process (not only its set-up) is
	// alive, from /proc alone.
	Running(c Container) bool
	// Ended says that no process of the container is left, its first or another;
	// Podman may not have noticed yet.
	Ended(c Container) bool
	// AskToEnd sends the container's stop signal to its first process.
	AskToEnd(c Container) error
	// Evict ends every process of the named containers and proves that none is left.
	Evict(ctx context.Context, names []string) error
	// Members lists the processes of the named containers.
	Members(names []string) ([]int, error)
	// Elsewhere says of the roots whether the container, which is set up or runs, has another
	// directory in their place: what was at the path then was moved, removed or unmounted. There is
	// nothing at the path "". What cannot be told is not in the answer.
	Elsewhere(c Container, roots map[string]string) map[string]bool
	// Freezer stops all the named containers at one instant.
	Freezer(service string, names []string, max time.Duration) replication.Freezer
}

// Addresses holds the virtual IPs of one node. Calls are idempotent.
type Addresses interface {
	Check(spec api.Spec) error
	Probe(ctx context.Context, spec api.Spec) error // duplicate on the network: an error naming its MAC
	Add(ctx context.Context, spec api.Spec) error
	Remove(ctx context.Context, spec api.Spec) error
	Held(spec api.Spec) (held, missing []string, err error)
}

// Cluster is Pacemaker, as far as terms and scores go.
type Cluster interface {
	Reserve(ctx context.Context, service string, above uint64) (uint64, error)
	Check(ctx context.Context, service string, term uint64) error
	SetScore(ctx context.Context, service string, score int) error
	ClearScore(ctx context.Context, service string) error
	// Promoted is the node on which the service is active, "" for none.
	Promoted(ctx context.Context, service string) (string, error)
}

// Replica is one service's data on this node: replication/engine.
type Replica interface {
	Head() (replication.ID, error)
	HeadManifest() (*replication.Manifest, error) // nil when there is no head
	Applied() replication.ID
	// Unkept says in a line what of the applied generation's metadata this node's system does
	// not take; empty: nothing.
	Unkept() string
	Fence(term uint64) error
	Term() (uint64, error)
	// Seal captures what the live tree is and commits it to the local store.
	Seal(ctx context.Context, req replication.SealRequest) (replication.SealResult, error)
	// ApplyAt brings the live tree to a committed generation.
	ApplyAt(ctx context.Context, id replication.ID, roots map[string]string) error
	// CheckRestore reads and verifies what going back to a generation needs: committed, or archived.
	CheckRestore(ctx context.Context, name string) error
	// Keep pins the generation.
	Keep(name, why string) error
	// Revert commits the generation's content as the next of the request's term; it can be done again.
	Revert(name string, req replication.SealRequest) (id replication.ID, notes []string, err error)
	// Promoted prepares the first Seal of an active node, while the containers start: the live tree
	// is what the head says.
	Promoted()
	// EndPromoted ends what Promoted began, if that is still going on.
	EndPromoted()
	// Ends are the sequences with which the newest terms before the head's ended in its history.
	Ends() map[uint64]uint64
	// Recheck makes the next Apply look at the whole live tree.
	Recheck() error
	// Realign archives what goes beyond base as diverged and sets the head back to it.
	Realign(ctx context.Context, base replication.ID) (archived []string, err error)
	Diverged() []string
	PendingImages() []string // paths of verified image archives to load
	DropImage(path string)
	// SealDirty seals what was written before the node went down; where a newer
	// term's generations are here already, or a volume is missing, it archives it and says as what.
	SealDirty(ctx context.Context, req replication.SealRequest) (res replication.SealResult, archived string, err error)
	// CheckTree keeps what was changed since the last apply without the cluster's
	// knowledge: sealed, or archived. sure: also where that means to read everything.
	CheckTree(ctx context.Context, req replication.SealRequest, sure bool) (res replication.SealResult, archived string, err error)
	// ArchiveTree archives what the live trees are now as a diverged generation.
	ArchiveTree(ctx context.Context, req replication.SealRequest) (string, error)
	// ArchiveForeign archives what somebody wrote to a standby's live trees; "": nothing was.
	ArchiveForeign(ctx context.Context, req replication.SealRequest) (string, error)
	// ArchiveOther archives what is in directories that are none of the service's; "": nothing but what the head has.
	ArchiveOther(ctx context.Context, req replication.SealRequest) (string, error)
	// Suspects are what was received and looks like an attack, the oldest first.
	Suspects() []store.Suspect
	// Lacks counts what the disk has forgotten and no other node has sent again yet.
	Lacks() int
	// Room is what the store's disk has left, and what history is kept while that is less
	// than what is configured; the zero Policy: it is not.
	Room() (store.Room, store.Policy, error)
	SetHave(images, layers []string) error
	Prune() error
	Freezes() (p50, p99, most time.Duration)
}

// Peers ships what this node's store has to the other nodes.
type Peers interface {
	// Names lists the peers; it does not change.
	Names() []string
	// Ship brings a peer's store up to the local head, and sends what is packed of the
	// next generation. One peer never waits for another.
	Ship(ctx context.Context, service, peer string) error
	// ShipFinal brings all peers up to the local head; it tries again for a few seconds,
	// whatever was tried before, and answers per peer.
	ShipFinal(ctx context.Context, service string) map[string]error
	// Mend sends a peer what it says that it has lost of what was committed.
	Mend(ctx context.Context, service, peer string) error
	// Images sends a peer the images that it lacks.
	Images(ctx context.Context, service, peer string, images []string, export func(ctx context.Context, id, path string) error) error
}

// Gossip is what the other nodes say of themselves.
type Gossip interface {
	Peers() []api.NodeStatus
	Publish()
}

// Journal records decisions for people.
type Journal interface {
	Record(d api.Decision)
}
