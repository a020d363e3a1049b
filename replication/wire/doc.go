// Package wire carries generations to a standby: plain SFTP, over SSH, to a
// virtual file system that can only grow.
//
// The receiving end is [Serve], which `understudy receive` runs behind a forced
// command; the sending end is [Client], and [Shipper] is the one who knows what
// to send. The verbs are DESIGN.md's table (package replication). Three rules
// carry the safety:
//
//   - What a sender writes goes into incoming and nowhere else. It becomes part
//     of the store by a rename, which is answered only when the content was
//     verified and is durable: the rename is the commit.
//   - No verb removes or replaces anything that was accepted. Whoever holds the
//     key of a sender can fill incoming, down to a floor of free space, and no more.
//   - A file in incoming is a prefix of what was sent, without holes, whatever
//     was cut or killed: writes are put in order before they reach the file. So
//     its size is where a sender can go on.
//
// Several packs travel at a time, each in an SSH session of its own with a `receive` of
// its own (up to [ClientOptions].Lanes; sshd's MaxSessions must allow them, or there are
// fewer): while one is verified and synced the next are on their way, and on a long line
// each session has a window of its own. [Shipper.Ahead] sends the packs of a generation
// while the rest of it is still being read.
//
// A refusal travels as the text of the SFTP status, "code: words" (see [Refusal]),
// and is logged on both sides: the receiver prints it on its standard error too,
// which sshd carries to the sender. sftp itself shows a person no more than
// "Failure", and sshd drops the standard error of a subsystem, so look with
//
//	sftp -s /sftp-server understudy@n2
//
// The line for the receiver's authorized_keys:
//
//	restrict,command="understudy receive" ssh-ed25519 AAAA… understudy@n1
//
// sshd keeps a half-open connection for hours. Nothing waits for it (a stalled
// upload gives its file free after [ServerOptions].StallTimeout), but
// "ClientAliveInterval 15" in sshd_config clears it away sooner.
package wire
