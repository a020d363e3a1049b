package config

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// gossipKeySize is AES-256's, in bytes.
const gossipKeySize = 32

// readOwned reads a regular file that owner owns and whose mode has none of the
// forbidden bits. It looks at the open file, so that what was checked is what
// is read; it does not block on a FIFO.
func readOwned(path string, owner uint32, forbidden os.FileMode) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, &fileFault{what: "is not a regular file"}
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid != owner {
		return nil, &fileFault{what: fmt.Sprintf("belongs to user %d", st.Uid), chown: owner, wrongOwner: true}
	}
	if fi.Mode().Perm()&forbidden != 0 || fi.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
		return nil, &fileFault{what: fmt.Sprintf("has mode %04o", fi.Mode().Perm()), mode: true}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		return nil, &fileFault{what: fmt.Sprintf("is larger than %d bytes", maxFile)}
	}
	return data, err
}

// fileFault is what is wrong with a file that could be opened.
type fileFault struct {
	what       string
	mode       bool
	wrongOwner bool
	chown      uint32
}

func (f *fileFault) Error() string { return f.what }

// problemOf words what readOwned found; mode is the one to give the file.
func problemOf(line int, path string, err error, mode string) Problem {
	var fault *fileFault
	switch {
	case errors.As(err, &fault) && fault.mode:
		return Problem{Line: line, Message: path + " " + fault.what + ": others than root can get at it", Next: fmt.Sprintf("run: chmod %s %s", mode, path)}
	case errors.As(err, &fault) && fault.wrongOwner:
		return Problem{Line: line, Message: path + " " + fault.what, Next: fmt.Sprintf("run: chown %d:%d %s", fault.chown, fault.chown, path)}
	case errors.As(err, &fault):
		return Problem{Line: line, Message: path + " " + fault.what, Next: "put the right file there"}
	case errors.Is(err, os.ErrNotExist):
		return Problem{Line: line, Message: path + " does not exist", Next: "make it with `understudy init`, or correct the path"}
	}
	return Problem{Line: line, Message: fmt.Sprintf("%s cannot be read: %v", path, err), Next: "correct the path or the file"}
}

// checkFiles reads the gossip key and checks the files that others will read.
// A path that is itself wrong is empty here and was reported already.
func (d *document) checkFiles(c *Config, owner uint32) {
	at := func(table, key string) int { return d.lines[join(table, key)] }
	if path := c.Gossip.KeyFile; path != "" {
		line := at("gossip", "key_file")
		data, err := readOwned(path, owner, 0o177)
		if err != nil {
			d.problems = append(d.problems, problemOf(line, path, err, "0600"))
		} else {
			c.Gossip.Key = d.gossipKey(line, path, data)
		}
	}
	if path := c.SSH.KeyFile; path != "" {
		line := at("ssh", "key_file")
		data, err := readOwned(path, owner, 0o177)
		if err != nil {
			d.problems = append(d.problems, problemOf(line, path, err, "0600"))
		} else if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN ")) {
			d.add(line, "name the file without .pub, or make a key with: ssh-keygen -t ed25519 -N '' -f "+path, "%s is not an SSH private key", path)
		}
	}
	if path := c.SSH.KnownHosts; path != "" {
		if _, err := readOwned(path, owner, 0o022); err != nil {
			d.problems = append(d.problems, problemOf(at("ssh", "known_hosts"), path, err, "0644"))
		}
	}
}

func (d *document) gossipKey(line int, path string, data []byte) Secret {
	next := fmt.Sprintf("make one key for all nodes with: head -c %d /dev/urandom | base64 > %s", gossipKeySize, path)
	key, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(data)))
	if err != nil {
		d.add(line, next, "%s does not hold a key in base64", path)
		return nil
	}
	if len(key) != gossipKeySize {
		d.add(line, next, "%s holds a key of %d bytes, not %d", path, len(key), gossipKeySize)
		return nil
	}
	return key
}
