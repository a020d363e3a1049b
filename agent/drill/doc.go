// Package drill rehearses disasters on a real cluster and measures them: how long the
// service was away for a client (RTO), how much was lost (RPO), and where the time went.
//
// A drill is rounds of: wait until a failover would succeed, measure from a client,
// do harm to the active node, watch the survivor take over, read the journals of
// Corosync, Pacemaker and the agent, bring the harmed node back. What does the harm
// ([Method]), what measures ([Prober]) and how the cluster is seen ([Cluster], [RunFunc])
// are interfaces: the CLI's work on any cluster, the lab's have a power switch
// and a client of their own.
//
// A round's parts:
//
//	harm ──detect──▶ fencing requested ──fence──▶ fencing done ──takeover──▶ first answer
//	  last answer before ──────────────── outage ────────────────────────────▶
//
// Nothing is assumed: a figure that could not be found in any source is absent.
package drill
