package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/understudy-ha/understudy/replication/durable"
)

// Vault keeps what arrived of images, blob by blob and compressed, so that an image that
// a power cut has damaged in Podman's storage can be loaded again. Layers that images
// share are kept once. Its methods must not be called concurrently.
//
//	blobs/<sha256>      a layer, a configuration or a manifest; zstd
//	images/<image ID>   what belongs to the image, as JSON
//
// Both appear by temp, sync, rename; what a kill left is made again by the next Add. A blob
// is checked against its name when it is read: one that has gone bad is dropped.
type Vault struct {
	dir  string
	hook durable.Hook // tests
}

// kept is the record of an image.
type kept struct {
	Layout []byte   `json:"layout"` // oci-layout
	Index  []byte   `json:"index"`  // index.json
	Blobs  []string `json:"blobs"`  // hex digests, also of layers that never arrived here
}

// OpenVault opens the vault in dir, which is made where it is missing.
func OpenVault(dir string) (*Vault, error) {
	v := &Vault{dir: dir}
	for _, sub := range []string{"blobs", "images"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (v *Vault) blob(sum string) string     { return filepath.Join(v.dir, "blobs", sum) }
func (v *Vault) record(image string) string { return filepath.Join(v.dir, "images", image) }

// Add keeps what the archive of size bytes has of an image, and says what that is. Errors
// are those of Inspect, or the file system's; nothing wrong is kept.
func (v *Vault) Add(src io.ReaderAt, size int64) (Info, error) {
	a, img, err := parse(src, size)
	if err != nil {
		return Info{}, err
	}
	for _, sum := range img.blobs(a) {
		if err := v.put(a, sum); err != nil {
			return Info{}, err
		}
	}
	k := kept{Blobs: img.sums()}
	if k.Layout, err = a.small(layoutName, a.layout); err != nil {
		return Info{}, err
	}
	if k.Index, err = a.small(indexName, a.index); err != nil {
		return Info{}, err
	}
	raw, err := json.Marshal(k)
	if err != nil {
		return Info{}, err
	}
	return img.info(a), durable.WriteFile(v.record(bare(img.config.Digest)), raw, 0o600, v.hook)
}

// put keeps a blob that is not there yet.
func (v *Vault) put(a *archive, sum string) (err error) {
	path := v.blob(sum)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".blob-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	w, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	if err := errors.Join(a.copyBlob(w, sum), w.Close(), v.hook.At("sync "+sum), f.Sync()); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return durable.Rename(f.Name(), path, v.hook)
}

// Images lists the IDs of the images of which something is kept, without "sha256:".
func (v *Vault) Images() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(v.dir, "images"))
	var ids []string
	for _, e := range entries {
		if isHex256(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}

// Write writes the archive of an image as far as its blobs are kept, and says so in the
// result: layers that are not Present have to be in the storage that it is loaded into.
// fs.ErrNotExist: nothing is kept of the image. After an error what was written is worthless.
func (v *Vault) Write(dst io.Writer, id string) (Info, error) {
	k, err := v.load(id)
	if err != nil {
		return Info{}, err
	}
	sizes := map[string]int64{}
	for _, sum := range k.Blobs {
		size, err := v.check(sum)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Info{}, err
		}
		sizes[sum] = size
	}
	tw := tar.NewWriter(dst)
	for name, raw := range map[string][]byte{layoutName: k.Layout, indexName: k.Index} {
		if err := v.entry(tw, name, int64(len(raw)), strings.NewReader(string(raw))); err != nil {
			return Info{}, err
		}
	}
	for _, sum := range k.Blobs {
		if size, ok := sizes[sum]; ok {
			err := v.read(sum, func(r io.Reader) error { return v.entry(tw, blobPrefix+sum, size, r) })
			if err != nil {
				return Info{}, err
			}
		}
	}
	if err := tw.Close(); err != nil {
		return Info{}, err
	}
	return v.info(k, sizes)
}

func (v *Vault) entry(tw *tar.Writer, name string, size int64, r io.Reader) error {
	if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := io.CopyN(tw, r, size)
	return err
}

// info describes the image by its own documents.
func (v *Vault) info(k kept, sizes map[string]int64) (Info, error) {
	documents := map[string]blob{}
	var all []byte
	for _, sum := range k.Blobs[:min(len(k.Blobs), 2)] { // manifest, configuration
		if _, ok := sizes[sum]; !ok {
			return Info{}, fmt.Errorf("%w: its manifest or configuration is not kept", ErrArchive)
		}
		err := v.read(sum, func(r io.Reader) error {
			raw, err := io.ReadAll(io.LimitReader(r, maxJSON))
			documents[sum] = blob{off: int64(len(all)), size: int64(len(raw))}
			all = append(all, raw...)
			return err
		})
		if err != nil {
			return Info{}, err
		}
	}
	documents["index"] = blob{off: int64(len(all)), size: int64(len(k.Index))}
	all = append(all, k.Index...)
	a := &archive{src: strings.NewReader(string(all)), index: documents["index"], blobs: documents}
	img, err := follow(a)
	if err != nil {
		return Info{}, err
	}
	for sum, size := range sizes {
		if _, ok := a.blobs[sum]; !ok {
			a.blobs[sum] = blob{size: size}
		}
	}
	return img.info(a), nil
}

// load reads the record of an image.
func (v *Vault) load(id string) (k kept, err error) {
	raw, err := os.ReadFile(v.record(bare(id)))
	if err == nil {
		err = json.Unmarshal(raw, &k)
	}
	if err == nil && slices.ContainsFunc(k.Blobs, func(s string) bool { return !isHex256(s) }) {
		err = ErrArchive
	}
	return k, err
}

// check reads a blob through and drops it when it is not what its name says.
func (v *Vault) check(sum string) (size int64, err error) {
	h := sha256.New()
	err = v.read(sum, func(r io.Reader) error {
		size, err = io.Copy(h, r)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	if err != nil || hex.EncodeToString(h.Sum(nil)) != sum {
		if rerr := os.Remove(v.blob(sum)); rerr != nil {
			return 0, errors.Join(err, rerr)
		}
		return 0, fs.ErrNotExist
	}
	return size, nil
}

func (v *Vault) read(sum string, f func(io.Reader) error) error {
	file, err := os.Open(v.blob(sum))
	if err != nil {
		return err
	}
	defer file.Close()
	r, err := zstd.NewReader(file, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer r.Close()
	return f(r)
}

// Prune drops all images but those that keep says, and the blobs that only they had.
// An image's record goes before its blobs.
func (v *Vault) Prune(keep func(id string) bool) (dropped []string, err error) {
	ids, err := v.Images()
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, id := range ids {
		k, err := v.load(id)
		if err == nil && keep(id) {
			for _, sum := range k.Blobs {
				used[sum] = true
			}
			continue
		}
		if err := durable.Remove(v.record(id), v.hook); err != nil {
			return dropped, err
		}
		dropped = append(dropped, id)
	}
	blobs, err := os.ReadDir(filepath.Join(v.dir, "blobs"))
	if err != nil {
		return dropped, err
	}
	for _, b := range blobs { // temporary files of a kill too
		if !used[b.Name()] {
			if err := os.Remove(v.blob(b.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return dropped, err
			}
		}
	}
	return dropped, nil
}

func bare(digest string) string { return strings.TrimPrefix(digest, "sha256:") }
