// Package cgroup knows a container's processes without asking Podman, from
// /proc and /sys/fs/cgroup alone. Three invariants hang on it:
//
//   - Stop tells the truth: [Host.Evict] proves that no container of a service
//     is on this node, and ends what is, also when Podman hangs.
//   - A freeze is bounded: [Freezer] stops containers for a capture, and three
//     parties end the freeze independently: the agent's own timer, the guard
//     process (see [GuardMain]) when the agent hangs or dies, and [ThawAll]
//     when both were killed.
//   - The agent is not the service: [Host.Find] finds again what runs.
//
// A container is found by its conmon process, by the directories that Podman
// names after its id (libpod-ID, libpod-ID.scope, libpod-payload-ID), and by the
// storage library's list of names, which is there when conmon is not. A
// container without cgroups (--cgroups=disabled) whose conmon is dead cannot be
// found; such containers are refused when a service is set up.
//
// Both cgroup v2 and v1 hierarchies are read. On v1 the freezer is used where
// its hierarchy is mounted, and killing is one signal per process.
package cgroup
