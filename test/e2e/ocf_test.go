//go:build lab

package e2e

// agentPath is the resource agent on a node.
const agentPath = "/usr/lib/ocf/resource.d/understudy/service"
