// Package podman is the agent's narrow view of a node's Podman: the containers,
// networks, volumes and images that a service is made of. It is the only
// importer of Podman's bindings, and no type of theirs leaves it.
//
// What a caller can rely on:
//
//   - Every call returns by its context's deadline, also when Podman accepts the
//     connection and never answers: see [Client] and the file call.go. A context
//     without a deadline gets [Options.Timeout], except for images, whose size
//     nobody knows.
//   - A call is sent at most once. The bindings retry three times, also a request
//     whose body is used up or whose effect has happened; that is cut off here.
//   - Nothing here deletes a volume's data, and nothing but [Client.Stop],
//     [Client.Kill] and [Client.Uninit] touches a container that runs.
//
// A [Definition] is what it takes to make a service's containers again on another
// node, with the pods they are in, and the networks, volumes, secrets and images they
// need. It is captured on the active ([Client.Capture]) and made true on the
// standby ([Client.Realise]). A container or pod is made again from the command line it
// was made with, read with Podman's own parsers into Podman's own specification;
// the flags that are understood are listed in flags.go, and any other is refused
// by name ([Client.Check]), for a definition that is nearly right is worse than none.
//
// What a container mounts is a tree that is replicated, or only a definition: volumes
// on a file server or in memory have no content of the node (volume.go), and the node's
// own directories are the operator's choice (bind.go).
//
// Quadlet units and Kubernetes YAML only name a workload. Of units, Understudy makes the
// containers itself ([Client.Adopt], quadlet.go), with the command that Podman's generator
// wrote for systemd, and they are like any others from then on. YAML travels with the
// definition and is played again, for what Podman makes of it shows no command (kube.go).
//
// Images that Understudy brought to a node are remembered: only these may be removed again
// (keep.go).
//
// A pod has a container that holds its namespaces. It is made with the pod, has the same
// name on every node, and runs on a standby: nothing else of the pod could be set up ahead.
//
// Three things about initialised containers on a standby:
//
//   - A volume's first mount ever, by a first init, makes Podman copy the image's
//     content into it if it is empty, and set the owner of its root (seen with
//     5.4.2; later mounts leave even an empty volume alone). So initialise once
//     after Realise has made a volume, and look at the whole tree when applying after that.
//   - An initialised container has its volumes mounted. Change files below a
//     volume's directory as you like; replace the directory itself (`_data`) and
//     the container goes on seeing the old one until [Client.Uninit].
//   - A port that is published on one address can be bound only where that address
//     is: Init fails on a standby if it is the virtual one, unless
//     net.ipv4.ip_nonlocal_bind is set. Such a container starts cold, after the address came.
package podman
