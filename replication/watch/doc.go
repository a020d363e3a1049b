// Package watch tells where volumes may have changed since it was asked last, so
// that a capture does not look at every file. What it tells is a hint: the stat
// of what it names is the truth, and a look at everything from time to time
// finds what it does not tell.
//
// # How
//
// One fanotify group marks the file systems that volumes lie on, so that a write
// is seen through whatever mount, in whatever namespace, and by a descriptor
// opened long before. The kernel queues an event within the system call that
// makes the change; what is queued is read when somebody takes, and each 100 ms
// lest a busy neighbour fill the queue. Not at each event: for a neighbour that
// appends to its log as fast as it can that took seventy times the processor
// time, as events of one name merge in the queue while nobody reads. An event
// names a directory by its handle, which leads to where the directory is now;
// most are in no volume and are dropped.
//
// Take answers "everything" whenever something is in doubt: at first, when the
// queue was full, when a root was replaced, moved, mounted over or unmounted.
//
// # What is not told
//
//   - Stores through a shared mapping, and writes by io_submit(2), before the file
//     is closed for good: ask [Mapped] and look at those files each time.
//   - Writes by io_uring(7), on older kernels, before the file is closed: Linux 6.18
//     tells them at once.
//   - Changes through another name of a file, when that name is in no volume,
//     or came and went between two looks; and the link count and change time of
//     the other names when one comes or goes. Look each time at files with
//     several names, and when a path that was named has several, at the others.
//   - Flags of chattr(1), such as immutable. Access times.
//   - Writes without a name: to files opened by their handle that the kernel has
//     no name of in its cache (servers of NFS), and what the kernel writes itself
//     (a loop device in the volume).
//
// Of btrfs all subvolumes are watched at once, by a mark at its top.
package watch
