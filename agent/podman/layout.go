package podman

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// Media types of Docker's image format, version 2 schema 2.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// maxDocument bounds the JSON documents that are read into memory, in bytes.
const maxDocument = 16 << 20

// relayout turns a docker-archive into an OCI layout of the same image, as a tar.
//
// An image in Docker's format must not be exported as OCI: its configuration
// would be rewritten, so it would have another ID at the other end and would have
// lost its HEALTHCHECK. But an OCI layout can hold a manifest in Docker's format,
// and such an archive loads, also without layers that are there already, which a
// docker-archive does not. Layers are named by the hash of their content in a
// docker-archive; it is checked here on the way.
func relayout(r io.Reader, w io.Writer) error {
	l := layout{out: tar.NewWriter(w), sizes: map[string]int64{}, configs: map[string][]byte{}}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read Podman's image archive: %w", err)
		}
		if h.Typeflag != tar.TypeReg {
			continue // links of the format's first version
		}
		for key := range h.PAXRecords {
			if strings.HasPrefix(key, "GNU.sparse.") {
				return fmt.Errorf("%s in Podman's image archive is a sparse file", h.Name)
			}
		}
		if err := l.add(h, in); err != nil {
			return err
		}
	}
	return l.finish()
}

type layout struct {
	out      *tar.Writer
	sizes    map[string]int64  // of layers, by hex digest
	configs  map[string][]byte // by name
	manifest []byte
}

func (l *layout) add(h *tar.Header, r io.Reader) error {
	switch name := path.Clean(h.Name); {
	case name == "manifest.json":
		var err error
		l.manifest, err = document(h, r)
		return err
	case path.Ext(name) == ".json":
		raw, err := document(h, r)
		l.configs[name] = raw
		return err
	case path.Ext(name) == ".tar" && isHexDigest(strings.TrimSuffix(name, ".tar")):
		digest := strings.TrimSuffix(name, ".tar")
		if _, twice := l.sizes[digest]; twice {
			return nil
		}
		l.sizes[digest] = h.Size
		return l.blob(digest, h.Size, r)
	}
	return nil
}

func document(h *tar.Header, r io.Reader) ([]byte, error) {
	if h.Size > maxDocument {
		return nil, fmt.Errorf("%s in Podman's image archive has %d bytes", h.Name, h.Size)
	}
	return io.ReadAll(r)
}

func isHexDigest(s string) bool { return anonymousName.MatchString(s) }

// blob writes content under its digest and checks that it has it.
func (l *layout) blob(digest string, size int64, r io.Reader) error {
	sum := sha256.New()
	if err := l.file("blobs/sha256/"+digest, size, io.TeeReader(r, sum)); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
		return fmt.Errorf("blob %s in Podman's image archive has the content of %s", digest, got)
	}
	return nil
}

func (l *layout) file(name string, size int64, r io.Reader) error {
	err := l.out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg})
	if err != nil {
		return err
	}
	_, err = io.CopyN(l.out, r, size)
	return err
}

type ociDescriptor struct {
	MediaType string `json:"mediaType"`
	Size      int64  `json:"size"`
	Digest    string `json:"digest"`
}

func describe(mediaType string, raw []byte) (ociDescriptor, string) {
	sum := sha256.Sum256(raw)
	digest := hex.EncodeToString(sum[:])
	return ociDescriptor{MediaType: mediaType, Size: int64(len(raw)), Digest: "sha256:" + digest}, digest
}

// finish writes configuration, manifest and index.
func (l *layout) finish() error {
	var items []struct{ Config, RepoTags, Layers any }
	if err := json.Unmarshal(l.manifest, &items); err != nil {
		return fmt.Errorf("manifest of Podman's image archive: %w", err)
	}
	if len(items) != 1 {
		return fmt.Errorf("the Podman image archive holds %d images, not one", len(items))
	}
	configName, _ := items[0].Config.(string)
	configRaw, ok := l.configs[path.Clean(configName)]
	if !ok {
		return fmt.Errorf("the Podman image archive has no configuration %q", configName)
	}
	config, configDigest := describe(dockerConfig, configRaw)
	m := struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        ociDescriptor   `json:"config"`
		Layers        []ociDescriptor `json:"layers"`
	}{SchemaVersion: 2, MediaType: dockerManifest, Config: config}
	names, _ := items[0].Layers.([]any)
	for _, n := range names {
		name, _ := n.(string)
		digest := strings.TrimSuffix(path.Clean(name), ".tar")
		size, ok := l.sizes[digest]
		if !ok {
			return fmt.Errorf("the Podman image archive lacks the layer %q", name)
		}
		m.Layers = append(m.Layers, ociDescriptor{MediaType: dockerLayer, Size: size, Digest: "sha256:" + digest})
	}
	return l.documents(configDigest, configRaw, m)
}

func (l *layout) documents(configDigest string, configRaw []byte, m any) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	desc, digest := describe(dockerManifest, raw)
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []ociDescriptor{desc}})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		raw  []byte
	}{
		{"blobs/sha256/" + configDigest, configRaw},
		{"blobs/sha256/" + digest, raw},
		{"index.json", index},
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
	} {
		if err := l.file(f.name, int64(len(f.raw)), strings.NewReader(string(f.raw))); err != nil {
			return err
		}
	}
	return l.out.Close()
}
