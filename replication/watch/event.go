package watch

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// event is one change as fanotify(7) tells it.
type event struct {
	mask uint64
	dir  []byte // the directory: file system ID, handle's length, type and bytes; nil when it is not told
	name []byte // in dir; "." is dir itself
}

const (
	headerLen = 24 // struct fanotify_event_metadata
	infoLen   = 4  // struct fanotify_event_info_header
	fsidLen   = 8
	handleLen = 8 // struct file_handle without its bytes
)

var errMalformed = errors.New("malformed event")

// next cuts the first event off b, which holds what one read(2) gave. The
// event's slices are of b.
func next(b []byte) (e event, rest []byte, err error) {
	if len(b) < headerLen {
		return event{}, nil, errMalformed
	}
	n := int(binary.NativeEndian.Uint32(b))
	at := int(binary.NativeEndian.Uint16(b[6:])) // where the information begins
	if b[4] != unix.FANOTIFY_METADATA_VERSION || at < headerLen || n < at || n > len(b) {
		return event{}, nil, errMalformed
	}
	e.mask = binary.NativeEndian.Uint64(b[8:])
	for info := b[at:n]; len(info) > 0; {
		if len(info) < infoLen {
			return event{}, nil, errMalformed
		}
		l := int(binary.NativeEndian.Uint16(info[2:]))
		if l < infoLen || l > len(info) {
			return event{}, nil, errMalformed
		}
		if info[0] == unix.FAN_EVENT_INFO_TYPE_DFID_NAME {
			if e.dir, e.name, err = dirAndName(info[infoLen:l]); err != nil {
				return event{}, nil, err
			}
		}
		info = info[l:]
	}
	return e, b[n:], nil
}

// dirAndName reads a record of type DFID_NAME, past its header.
func dirAndName(b []byte) (dir, name []byte, err error) {
	if len(b) < fsidLen+handleLen {
		return nil, nil, errMalformed
	}
	l := uint64(binary.NativeEndian.Uint32(b[fsidLen:]))
	if l > uint64(len(b)-fsidLen-handleLen) {
		return nil, nil, errMalformed
	}
	dir, b = b[:fsidLen+handleLen+l], b[fsidLen+handleLen+l:]
	end := bytes.IndexByte(b, 0)
	if end <= 0 || bytes.IndexByte(b[:end], '/') >= 0 {
		return nil, nil, errMalformed
	}
	return dir, b[:end], nil
}

// fsid is a file system's ID as statfs(2) and events have it.
type fsid [fsidLen]byte

// handle takes dir apart.
func (e event) handle() (fsid, unix.FileHandle) {
	typ := int32(binary.NativeEndian.Uint32(e.dir[fsidLen+4:]))
	return fsid(e.dir), unix.NewFileHandle(typ, e.dir[fsidLen+handleLen:])
}
