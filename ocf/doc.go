// Package ocf is the resource agent ocf:understudy:service: the environment and
// the action that Pacemaker gives, the question to the agent, the exit code.
//
// It knows package agent/api and nothing else of Understudy, and asks only for
// what is cheap to load: the process lives for a few milliseconds, every few
// seconds, on every node.
//
// # What must hold
//
//   - One table (codes.go) turns kinds of errors into exit codes. Two codes do
//     harm: 5, 4 and 2 ban this node, 6 stops the service in the whole cluster.
//     So only what is wrong with the service's shape on every node is 6; a bad
//     value of a tunable is 2 when the service starts here, and never stops a
//     service that runs: promote, demote and reload-agent go on with the default,
//     and monitor says degraded.
//   - monitor says what is true on this node. When the agent cannot say, the
//     record that it left in /run is compared with what the kernel says
//     (local.go): the agent is not the service.
//   - stop never validates, and is right with the agent dead, Podman dead and
//     Podman hung: half of the time is the agent's, then `understudy evict` does
//     it without either. Success means that nothing recorded is left.
//   - Every action ends before Pacemaker's own timeout, with an exit reason.
//
// meta-data is made from the same table (params.go) that the environment is
// read with, so neither can name a parameter that the other lacks.
package ocf
