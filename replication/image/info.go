package image

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Info says what an archive holds.
type Info struct {
	ID     string   // image ID as Podman shows it: "sha256:" and the config's digest
	Names  []string // references the archive carries, possibly none
	Layers []Layer  // from the lowest up
	Bytes  int64    // Thin: written; Inspect: the archive's size
}

// Layer is one layer of an image.
type Layer struct {
	Digest     string // of the blob: "sha256:…"
	DiffID     string // of the uncompressed content: "sha256:…"
	Size       int64  // of the blob, bytes
	Compressed bool
	Present    bool // its blob is in the archive
}

// Inspect reads the archive of size bytes, full or thin, and checks the digest
// of every blob in it. An archive that it accepts may still miss layers: see
// [Layer.Present]. Errors are ErrArchive, ErrDigest or src's.
func Inspect(src io.ReaderAt, size int64) (Info, error) {
	a, img, err := parse(src, size)
	if err != nil {
		return Info{}, err
	}
	for _, sum := range img.blobs(a) {
		if err := a.copyBlob(io.Discard, sum); err != nil {
			return Info{}, err
		}
	}
	info := img.info(a)
	info.Bytes = size
	return info, nil
}

// descriptor, index, manifest and config are the parts of the OCI image
// specification (v1.1) that matter here.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
}

// sum is the hex of a SHA-256 digest; no other algorithm is accepted.
func (d descriptor) sum() (string, error) {
	sum, ok := strings.CutPrefix(d.Digest, "sha256:")
	if !ok || !isHex256(sum) {
		return "", fmt.Errorf("digest %q is not a SHA-256", d.Digest)
	}
	return sum, nil
}

type index struct {
	Manifests []descriptor `json:"manifests"`
}

type manifest struct {
	Config descriptor   `json:"config"`
	Layers []descriptor `json:"layers"`
}

type config struct {
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// picture is the one image of an archive, its documents verified.
type picture struct {
	names    []string
	manifest descriptor
	config   descriptor
	layers   []Layer // Present is not set yet
}

// parse opens an archive and follows it.
func parse(src io.ReaderAt, size int64) (*archive, *picture, error) {
	a, err := open(src, size)
	if err != nil {
		return nil, nil, err
	}
	img, err := follow(a)
	return a, img, err
}

// follow goes from an archive's index to manifest and config.
func follow(a *archive) (*picture, error) {
	buf, err := a.small(indexName, a.index)
	if err != nil {
		return nil, err
	}
	var idx index
	if err := json.Unmarshal(buf, &idx); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrArchive, indexName, err)
	}
	if len(idx.Manifests) != 1 {
		return nil, fmt.Errorf("%w: it holds %d; export one image at a time", ErrArchive, len(idx.Manifests))
	}
	img := &picture{manifest: idx.Manifests[0]}
	if name := img.manifest.Annotations["org.opencontainers.image.ref.name"]; name != "" {
		img.names = []string{name}
	}
	if buf, err = a.document("manifest", img.manifest); err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(buf, &m); err != nil {
		return nil, fmt.Errorf("%w: manifest: %w", ErrArchive, err)
	}
	img.config = m.Config
	if buf, err = a.document("config", m.Config); err != nil {
		return nil, err
	}
	var c config
	if err := json.Unmarshal(buf, &c); err != nil {
		return nil, fmt.Errorf("%w: config: %w", ErrArchive, err)
	}
	img.layers, err = layers(a, m.Layers, c.RootFS.DiffIDs)
	return img, err
}

// layers pairs a manifest's layers with the config's diff IDs.
func layers(a *archive, ds []descriptor, diffIDs []string) ([]Layer, error) {
	if len(ds) != len(diffIDs) {
		return nil, fmt.Errorf("%w: its manifest has %d layers, its config %d", ErrArchive, len(ds), len(diffIDs))
	}
	ls := make([]Layer, len(ds))
	for i, d := range ds {
		sum, err := d.sum()
		if err != nil {
			return nil, fmt.Errorf("%w: layer %d: %w", ErrArchive, i, err)
		}
		if _, err := (descriptor{Digest: diffIDs[i]}).sum(); err != nil {
			return nil, fmt.Errorf("%w: diff ID of layer %d: %w", ErrArchive, i, err)
		}
		l := Layer{Digest: d.Digest, DiffID: diffIDs[i], Size: d.Size, Compressed: strings.Contains(d.MediaType, "+")}
		if b, ok := a.blobs[sum]; ok && b.size != d.Size {
			return nil, fmt.Errorf("layer %s has %d bytes, its manifest says %d: %w", d.Digest, b.size, d.Size, ErrDigest)
		}
		if !l.Compressed && l.Digest != l.DiffID {
			// The one property that a thin archive hangs on: leaving out by diff ID
			// is only sound where the blob is the diff.
			return nil, fmt.Errorf("uncompressed layer %s has the diff ID %s: %w", l.Digest, l.DiffID, ErrDigest)
		}
		ls[i] = l
	}
	return ls, nil
}

// blobs lists the hex digests that the image refers to and the archive has,
// each once: manifest, config, then layers from the lowest up. What the archive
// holds beyond that is not the image's, and is left alone.
func (p *picture) blobs(a *archive) []string {
	var sums []string
	add := func(digest string) {
		sum := strings.TrimPrefix(digest, "sha256:")
		if _, ok := a.blobs[sum]; ok && !slices.Contains(sums, sum) {
			sums = append(sums, sum)
		}
	}
	add(p.manifest.Digest)
	add(p.config.Digest)
	for _, l := range p.layers {
		add(l.Digest)
	}
	return sums
}

// sums lists the hex digests that the image refers to, each once, in blobs' order: the
// manifest first, then the config.
func (p *picture) sums() []string {
	sums := []string{bare(p.manifest.Digest), bare(p.config.Digest)}
	for _, l := range p.layers {
		if sum := bare(l.Digest); !slices.Contains(sums, sum) {
			sums = append(sums, sum)
		}
	}
	return sums
}

// info describes the image as a holds it.
func (p *picture) info(a *archive) Info {
	ls := slices.Clone(p.layers)
	for i := range ls {
		_, ls[i].Present = a.blobs[strings.TrimPrefix(ls[i].Digest, "sha256:")]
	}
	return Info{ID: p.config.Digest, Names: p.names, Layers: ls}
}
