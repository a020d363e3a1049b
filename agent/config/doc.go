// Package config reads the node's own file, /etc/understudy/agent.toml: what
// belongs to this node and to no service (its name, peers, keys and paths).
// Services are defined in the CIB alone; nothing about them is accepted here.
//
// A file is taken whole or refused whole. A refusal names every problem at
// once, each with its line and with what to write instead, because an operator
// who meets them one by one restarts a cluster agent once per typing error.
package config
