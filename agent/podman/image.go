package podman

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containers/podman/v5/pkg/bindings/images"
	"github.com/containers/podman/v5/pkg/domain/entities/types"

	"github.com/understudy-ha/understudy/agent/api"
)

// ImageDef is an image by ID (the digest of its configuration, the same on every
// node, without "sha256:") with its names, sorted.
type ImageDef struct {
	ID    string   `json:"id"`
	Names []string `json:"names,omitempty"` // "registry.example/app:1"
}

// Images lists the IDs of all images that are here, sorted, as [ImageDef] has them.
func (c *Client) Images(ctx context.Context) ([]string, error) {
	all := true
	list, err := call(ctx, c, "list images", func(ctx context.Context) ([]*types.ImageSummary, error) {
		return images.List(ctx, &images.ListOptions{All: &all})
	})
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(list))
	for _, img := range list {
		ids = append(ids, bareID(img.ID))
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Present sorts image IDs into those that are here and those that are not.
func (c *Client) Present(ctx context.Context, ids []string) (have, missing []string, err error) {
	here, err := c.Images(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range ids {
		if slices.Contains(here, bareID(id)) {
			have = append(have, id)
		} else {
			missing = append(missing, id)
		}
	}
	return have, missing, nil
}

// Layers are the diff IDs ("sha256:…", of the uncompressed layers) of every image that is here, sorted.
func (c *Client) Layers(ctx context.Context) ([]string, error) {
	ids, err := c.Images(ctx)
	if err != nil {
		return nil, err
	}
	var layers []string
	for _, id := range ids {
		if err := c.appendLayers(ctx, id, &layers); err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrDamaged) {
			return nil, err
		}
	}
	slices.Sort(layers)
	return slices.Compact(layers), nil
}

func (c *Client) appendLayers(ctx context.Context, id string, layers *[]string) error {
	img, err := c.inspectImage(ctx, id)
	if err != nil {
		return err
	}
	if img.RootFS != nil {
		for _, l := range img.RootFS.Layers {
			*layers = append(*layers, l.String())
		}
	}
	return nil
}

func (c *Client) inspectImage(ctx context.Context, name string) (*types.ImageInspectReport, error) {
	return call(ctx, c, "inspect image "+name, func(ctx context.Context) (*types.ImageInspectReport, error) {
		return images.GetImage(ctx, name, nil)
	})
}

// Image describes an image by name or ID; ErrNotFound if it is not here.
func (c *Client) Image(ctx context.Context, name string) (ImageDef, error) {
	img, err := c.inspectImage(ctx, name)
	if err != nil {
		return ImageDef{}, err
	}
	return imageDef(img), nil
}

func imageDef(img *types.ImageInspectReport) ImageDef {
	def := ImageDef{ID: bareID(img.ID)}
	for _, name := range img.RepoTags {
		if !strings.Contains(name, "<none>") {
			def.Names = append(def.Names, name)
		}
	}
	slices.Sort(def.Names)
	return def
}

// ExportOCI writes the image as an OCI archive (a tar) with its layers
// uncompressed: layers that the receiver has can be left out of such an archive,
// and it still loads there, with the same ID. An image in Docker's format stays in
// it (see relayout). Names do not travel: see Tag. Podman writes the whole archive
// to its temporary directory before the first byte comes; ctx's deadline is the
// only limit.
func (c *Client) ExportOCI(ctx context.Context, id string, w io.Writer) error {
	img, err := c.inspectImage(ctx, id)
	if err != nil {
		return err
	}
	g := &gate{w: w}
	defer g.shut()
	if img.ManifestType != dockerManifest {
		return c.export(ctx, img.ID, "oci-archive", g)
	}
	pr, pw := io.Pipe()
	converted := make(chan error, 1)
	if !c.spawn(func() {
		err := relayout(pr, g)
		pr.CloseWithError(err) // ends the export when the conversion fails
		converted <- err
	}) {
		return ErrClosed
	}
	err = c.export(ctx, img.ID, "docker-archive", pw)
	pw.CloseWithError(err)
	if cerr := <-converted; err == nil {
		err = cerr
	}
	return err
}

func (c *Client) export(ctx context.Context, id, format string, w io.Writer) error {
	plain := true
	return do(unbounded(ctx), c, "export image "+id, func(ctx context.Context) error {
		return images.Export(ctx, []string{id}, w, &images.ExportOptions{
			Format: &format, OciAcceptUncompressedLayers: &plain,
		})
	})
}

// gate stops writes once it is shut: a call that has returned must not write on.
type gate struct {
	mu sync.Mutex // held while writing
	w  io.Writer  // nil once shut
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.w == nil {
		return 0, io.ErrClosedPipe
	}
	return g.w.Write(p)
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.w = nil
}

// Load reads an archive into Podman's storage and returns the image's ID. want,
// if not empty, is the ID it must have: anything else is an error.
func (c *Client) Load(ctx context.Context, path, want string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	report, err := call(unbounded(ctx), c, "load image archive "+path, func(ctx context.Context) (*types.ImageLoadReport, error) {
		return images.Load(ctx, f)
	})
	if err != nil {
		return "", err
	}
	if len(report.Names) != 1 {
		return "", api.Errorf(api.KindGeneric, "", "load image archive %s: Podman loaded %d images, not one", path, len(report.Names))
	}
	img, err := c.Image(ctx, report.Names[0])
	if err != nil {
		return "", err
	}
	if want != "" && img.ID != bareID(want) {
		return "", api.Errorf(api.KindRefused, "", "load image archive %s: it holds image %s, not %s", path, img.ID, bareID(want))
	}
	return img.ID, nil
}

// Tag gives an image its names; a name that another image had moves to this one.
func (c *Client) Tag(ctx context.Context, id string, names []string) error {
	for _, name := range names {
		repo, tag := splitName(name)
		err := do(ctx, c, "tag image "+id+" as "+name, func(ctx context.Context) error {
			return images.Tag(ctx, id, tag, repo, nil)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) untag(ctx context.Context, id, name string) error {
	repo, tag := splitName(name)
	return do(ctx, c, "take the name "+name+" from image "+id, func(ctx context.Context) error {
		return images.Untag(ctx, id, tag, repo, nil)
	})
}

// splitName cuts "host:5000/app:1" into repository and tag.
func splitName(name string) (repo, tag string) {
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i], name[i+1:]
	}
	return name, "latest"
}

func bareID(id string) string { return strings.TrimPrefix(id, "sha256:") }
