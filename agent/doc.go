// Package agent is the daemon that runs on each node: the one place where its
// parts are wired. Each part lives in a package of its own and knows none of the
// others:
//
//	service   the role state machine of one service: start, promote, demote, stop;
//	          a failover happens in service/promote.go
//	server    the control socket, by which the resource agent and the CLI get in
//	podman    containers, definitions, images
//	cgroup    freezing containers, and proving that none runs, without Podman
//	vip       addresses and their announcement
//	gossip    what nodes tell each other of their health
//	cluster   terms and scores in Pacemaker
//	journal   the decision journal
//	config    /etc/understudy/agent.toml
//
// and replication/engine with replication/wire, which carry the data.
// The files of this package adapt each to what package service asks for.
package agent
