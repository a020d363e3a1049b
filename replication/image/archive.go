package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits on what is read into memory or listed from an archive that somebody
// else wrote. Real images have well below 200 layers, and a config of some KiB.
const (
	maxEntries = 1024
	maxJSON    = 4 << 20 // bytes of an index, a manifest or a config
)

// Errors that callers tell apart.
var (
	// ErrArchive says that the bytes are not an OCI archive of one image.
	ErrArchive = errors.New("not an OCI archive of one image")
	// ErrDigest says that a blob is not what its digest says.
	ErrDigest = errors.New("content does not match its digest")
)

// blob is where a blob's content lies in the archive.
type blob struct{ off, size int64 }

// archive is the table of contents of an OCI archive; nothing of its content
// has been believed yet.
type archive struct {
	src    io.ReaderAt
	layout blob
	index  blob
	blobs  map[string]blob // by hex of its SHA-256
}

const (
	layoutName = "oci-layout"
	indexName  = "index.json"
	blobPrefix = "blobs/sha256/"
)

// open reads the table of contents. The tar reader seeks over content, so the
// cost is a header per blob.
func open(src io.ReaderAt, size int64) (*archive, error) {
	a := &archive{src: src, blobs: map[string]blob{}}
	sr := io.NewSectionReader(src, 0, size)
	tr := tar.NewReader(sr)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrArchive, err)
		}
		if n == maxEntries {
			return nil, fmt.Errorf("%w: more than %d entries", ErrArchive, maxEntries)
		}
		off, err := sr.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if err := a.add(h, off, size); err != nil {
			return nil, err
		}
	}
	if a.layout.off == 0 || a.index.off == 0 {
		return nil, fmt.Errorf("%w: %s or %s is not in it; export with the format oci-archive", ErrArchive, layoutName, indexName)
	}
	return a, nil
}

// add takes an entry into the table; any name that an OCI layout does not have
// is refused, so nothing is ever resolved against a file system.
func (a *archive) add(h *tar.Header, off, size int64) error {
	name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
	if h.Typeflag == tar.TypeDir && (name == "" || name == "." || name == "blobs" || name == "blobs/sha256") {
		return nil
	}
	if h.Typeflag != tar.TypeReg || isSparse(h) {
		return fmt.Errorf("%w: %q is not a plain file", ErrArchive, h.Name)
	}
	if h.Size > size-off {
		return fmt.Errorf("%w: %q is cut short", ErrArchive, h.Name)
	}
	b := blob{off: off, size: h.Size}
	at := &a.layout
	switch name {
	case layoutName:
	case indexName:
		at = &a.index
	default:
		sum, ok := strings.CutPrefix(name, blobPrefix)
		if !ok || !isHex256(sum) {
			return fmt.Errorf("%w: unexpected entry %q", ErrArchive, h.Name)
		}
		if _, dup := a.blobs[sum]; dup {
			return fmt.Errorf("%w: %q is in it twice", ErrArchive, h.Name)
		}
		a.blobs[sum] = b
		return nil
	}
	if at.off != 0 {
		return fmt.Errorf("%w: %q is in it twice", ErrArchive, h.Name)
	}
	*at = b
	return nil
}

// isSparse says whether a regular entry's content is not stored plainly.
func isSparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// content is a reader of a blob's bytes.
func (a *archive) content(b blob) *io.SectionReader {
	return io.NewSectionReader(a.src, b.off, b.size)
}

// small reads a JSON document whole.
func (a *archive) small(name string, b blob) ([]byte, error) {
	if b.size > maxJSON {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than %d", ErrArchive, name, b.size, maxJSON)
	}
	buf := make([]byte, b.size)
	if _, err := io.ReadFull(a.content(b), buf); err != nil {
		return nil, fmt.Errorf("read %s of the archive: %w", name, err)
	}
	return buf, nil
}

// document reads the JSON blob that a descriptor names and checks its digest.
func (a *archive) document(what string, d descriptor) ([]byte, error) {
	sum, err := d.sum()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrArchive, what, err)
	}
	b, ok := a.blobs[sum]
	if !ok {
		return nil, fmt.Errorf("%w: its %s %s is not in it", ErrArchive, what, d.Digest)
	}
	buf, err := a.small(what, b)
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(buf); hex.EncodeToString(got[:]) != sum {
		return nil, fmt.Errorf("%s %s: %w", what, d.Digest, ErrDigest)
	}
	return buf, nil
}

// copyBlob streams a blob to dst and fails, after the fact, where the bytes do
// not match the digest: what was written by then must be thrown away.
func (a *archive) copyBlob(dst io.Writer, sum string) error {
	b := a.blobs[sum]
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(dst, h), a.content(b))
	if err != nil {
		return fmt.Errorf("copy blob sha256:%s: %w", sum, err)
	}
	if n != b.size || hex.EncodeToString(h.Sum(nil)) != sum {
		return fmt.Errorf("blob sha256:%s: %w", sum, ErrDigest)
	}
	return nil
}

// isHex256 says whether s is a SHA-256 in lower-case hex.
func isHex256(s string) bool {
	if len(s) != 2*sha256.Size {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}
