// Package vip holds a service's virtual IP addresses on this node: it probes
// for a duplicate, adds, announces, watches and removes them.
//
// What must hold:
//
//   - An address is announced only while the kernel says it is ours: the check
//     is made before every single frame goes out.
//   - Remove stops the announcements of an address before it takes the address
//     away, and is not done before the kernel has no trace of it on any interface.
//   - Nothing here adds an address by itself. An address that was lost (its
//     lease ran out, an operator removed it, IPv6 went with the link) is
//     reported by Watch; whether it comes back is for the service's state
//     machine to say, which knows whether this node is still the active one.
//   - Closing a Manager leaves the addresses in place: the agent is not the service.
//
// How the kernel is told. Addresses carry the protocol number [Mark]
// (IFA_PROTO, since Linux 5.18; older kernels drop it in silence) and, for
// IPv4, a label ending in ":us", so that a successor of a killed agent and a
// person with `ip address` tell ours from others.
// Where another address of the interface covers the subnet, the address is
// added with noprefixroute: otherwise one with another prefix length would bring
// a second subnet route, and the node's own connections would start from an
// address that can move away. For the same reason such an IPv6 address is
// deprecated (preferred lifetime 0).
// IPv6 addresses are added with nodad: duplicate address detection would keep
// the address tentative for a second; Probe has asked already.
//
// The probe is on the critical path of a takeover and therefore much quicker
// than RFC 5227 and RFC 4862 ask for: see [Options.ProbeCount].
//
// Announcements are gratuitous ARP in both forms, request and reply, since
// some switches and hosts learn from only one of them, and an unsolicited
// neighbour advertisement with the Override flag. They go out at once and are
// repeated more than a second apart, since an older Linux ignores what
// comes within its ARP lock time of one second.
//
// A known limit: if an IPv4 virtual address was there before the node's own
// address in the same subnet, it is the primary one, and removing it removes
// the node's own too unless the sysctl promote_secondaries is 1 (systemd sets it).
package vip
