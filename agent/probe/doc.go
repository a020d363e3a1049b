// Package probe measures outages of a service as a client sees them.
//
// One request is issued every few milliseconds, each on a new connection and on
// schedule, without waiting for the ones before it: a request that hangs in a
// dead node's connection neither delays the next one nor blurs the moment at
// which the service answers again.
//
// An outage is the time without an answer: from the last success before it to
// the first success after it. It is reported when it is at least [Options].MinOutage
// long, or holds a failed request and spans two intervals. Every outage carries how
// late the client itself was meanwhile (Outage.ClientLagMS): a gap that the
// measuring machine made is told from one that the service made.
//
// Numbered writes can run beside it ([Writes]): a write counts as acknowledged when the
// service said so, and what survived is read back at the end. Lost = acknowledged and
// not present; it is counted, never assumed.
//
// The package knows nothing of clusters: it runs in a client's network namespace
// or on a machine that has no other part of Understudy.
package probe
