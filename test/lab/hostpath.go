package lab

import "strconv"

// HostPath is how a program of the machine reaches a running node's file or
// socket. It holds until the node loses power.
func (n *Node) HostPath(path string) string {
	return "/proc/" + strconv.Itoa(n.pid1().PID) + "/root" + path
}
