package image

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"
)

// Thin copies the OCI archive src of size bytes to dst without the uncompressed
// layers that have names by diff ID ("sha256:…"). It streams: memory stays small
// whatever the image's size. The image ID stays the same.
//
// Every blob that is copied is checked against its digest. After an error what
// was written to dst is worthless. A layer that neither src nor have has is an
// error: nobody could load the result.
func Thin(dst io.Writer, src io.ReaderAt, size int64, have map[string]bool) (Info, error) {
	a, img, err := parse(src, size)
	if err != nil {
		return Info{}, err
	}
	for _, l := range img.layers {
		sum := strings.TrimPrefix(l.Digest, "sha256:")
		if !l.Compressed && have[l.DiffID] {
			delete(a.blobs, sum)
		} else if _, ok := a.blobs[sum]; !ok {
			return Info{}, fmt.Errorf("%w: layer %s is not in it, and the peer lacks it", ErrArchive, l.Digest)
		}
	}
	w := &counter{w: dst}
	if err := img.write(w, a); err != nil {
		return Info{}, err
	}
	info := img.info(a)
	info.Bytes = w.n
	return info, nil
}

// write lays the image out as a tar, in the order its reader needs things in.
// Headers carry nothing but name and size, so equal images give equal bytes.
func (p *picture) write(w io.Writer, a *archive) error {
	tw := tar.NewWriter(w)
	file := func(name string, b blob, content func(io.Writer) error) error {
		h := &tar.Header{Name: name, Mode: 0o644, Size: b.size, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		return content(tw)
	}
	plain := func(b blob) func(io.Writer) error {
		return func(w io.Writer) error {
			_, err := io.Copy(w, a.content(b))
			return err
		}
	}
	if err := file(layoutName, a.layout, plain(a.layout)); err != nil {
		return err
	}
	if err := file(indexName, a.index, plain(a.index)); err != nil {
		return err
	}
	for _, sum := range p.blobs(a) {
		check := func(w io.Writer) error { return a.copyBlob(w, sum) }
		if err := file(blobPrefix+sum, a.blobs[sum], check); err != nil {
			return err
		}
	}
	return tw.Close()
}

// counter counts what goes through.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
