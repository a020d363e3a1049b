// Package api is what crosses the agent's control socket: wire types, error
// kinds and the client. It is a leaf: it imports only the standard library, so
// that the resource agent (package ocf), which is executed by Pacemaker every
// few seconds, starts in a couple of milliseconds.
//
// The protocol is HTTP with JSON bodies over a unix socket of mode 0600.
// A request carries its deadline in the header [DeadlineHeader]; the server
// gives up by then, whatever it is waiting for.
package api
