package watch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Inode is a file as stat(2) has it.
type Inode struct {
	Dev, Ino uint64
}

// Mapped gives the files that any of the processes can change without a word to
// the Watcher: by a shared mapping that is writable or that mprotect(2) can make
// so, and, in a process that uses Linux' own asynchronous I/O (io_submit(2), as
// MariaDB does), by any descriptor open for writing; and those that it may have
// mapped and unmapped again: open for reading and writing. It holds more than that:
// files that have no name any more, shared memory, files of other file systems.
// A process that is gone is passed over, and what comes or goes meanwhile may or
// may not be in the result: ask while the processes stand still.
func Mapped(pids []int) (map[Inode]struct{}, error) {
	found := map[Inode]struct{}{}
	buf := make([]byte, 0, 64<<10)
	for _, pid := range pids {
		var err error
		if buf, err = readMaps(pid, buf[:0]); err == nil {
			err = noteMaps(pid, buf, found)
		}
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("what process %d has mapped and open cannot be read, and so not what it changes without notice: run as root with CAP_SYS_PTRACE (%w)", pid, err)
		}
	}
	return found, nil
}

func gone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }

// readMaps appends the process' /proc/PID/maps to b.
func readMaps(pid int, b []byte) ([]byte, error) {
	f, err := os.Open(proc(pid, "maps"))
	if err != nil {
		return b, err
	}
	defer f.Close()
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

func proc(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

func noteMaps(pid int, maps []byte, found map[Inode]struct{}) error {
	aio := false
	for len(maps) > 0 {
		var line []byte
		line, maps, _ = bytes.Cut(maps, []byte{'\n'})
		m, ok := parseMapping(line)
		switch {
		case !ok:
		case m.aio:
			aio = true
		default:
			m.note(pid, found)
		}
	}
	return noteOpen(pid, aio, found)
}

// mapping is a shared one with an inode.
type mapping struct {
	span     []byte // "from-to", hexadecimal
	writable bool
	anonDev  bool // a device number that the kernel made up
	aio      bool // the ring of asynchronous I/O
	inode    Inode
}

// parseMapping reads a line of maps, see proc_pid_maps(5); false when it is not
// a shared mapping of an inode.
func parseMapping(line []byte) (m mapping, ok bool) {
	var perms, dev, ino []byte
	rest := line
	m.span, rest, _ = bytes.Cut(rest, []byte{' '})
	perms, rest, _ = bytes.Cut(rest, []byte{' '})
	if len(perms) != 4 || perms[3] != 's' {
		return mapping{}, false
	}
	_, rest, _ = bytes.Cut(rest, []byte{' '}) // offset
	dev, rest, _ = bytes.Cut(rest, []byte{' '})
	ino, rest, _ = bytes.Cut(rest, []byte{' '})
	major, minor, colon := bytes.Cut(dev, []byte{':'})
	maj, err1 := strconv.ParseUint(string(major), 16, 32)
	mnr, err2 := strconv.ParseUint(string(minor), 16, 32)
	n, err3 := strconv.ParseUint(string(ino), 10, 64)
	if !colon || err1 != nil || err2 != nil || err3 != nil || n == 0 {
		return mapping{}, false
	}
	m.writable, m.anonDev = perms[1] == 'w', maj == 0
	m.aio = m.anonDev && bytes.HasPrefix(bytes.TrimLeft(rest, " "), []byte("/[aio]"))
	m.inode = Inode{Dev: unix.Mkdev(uint32(maj), uint32(mnr)), Ino: n}
	return m, true
}

// note adds m's file, unless it was opened for reading only: then mprotect does
// not make the mapping writable either. Programs that map thousands of files to
// read them would else have all of them looked at.
func (m mapping) note(pid int, found map[Inode]struct{}) {
	if _, ok := found[m.inode]; ok && !m.anonDev {
		return
	}
	// The entry's name is without leading zeros; its mode says how the file was opened.
	from, to, _ := bytes.Cut(m.span, []byte{'-'})
	entry := proc(pid, "map_files/"+string(trimZeros(from))+"-"+string(trimZeros(to)))
	var st unix.Stat_t
	if !m.writable && unix.Lstat(entry, &st) == nil && st.Mode&unix.S_IWUSR == 0 {
		return
	}
	// btrfs has a device number of its own for each subvolume, which maps does not show.
	if m.anonDev && unix.Stat(entry, &st) == nil {
		m.inode.Dev = uint64(st.Dev) // the type differs by architecture
	}
	found[m.inode] = struct{}{} // in doubt, too
}

func trimZeros(hex []byte) []byte {
	for len(hex) > 1 && hex[0] == '0' {
		hex = hex[1:]
	}
	return hex
}

// noteOpen adds the files that the process has open for reading and writing: it
// may have mapped one, stored, and unmapped it since the last look, and nothing was
// told as long as it is open. With asynchronous I/O, also those open for writing alone.
func noteOpen(pid int, aio bool, found map[Inode]struct{}) error {
	need := uint32(unix.S_IRUSR | unix.S_IWUSR)
	if aio {
		need = unix.S_IWUSR
	}
	dir, err := os.Open(proc(pid, "fd"))
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		entry := proc(pid, "fd/"+name)
		if unix.Lstat(entry, &st) != nil || st.Mode&need != need || unix.Stat(entry, &st) != nil {
			continue // open for reading, or closed by now
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			found[Inode{Dev: uint64(st.Dev), Ino: st.Ino}] = struct{}{} // the type differs by architecture
		}
	}
	return nil
}
