package podman

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containers/podman/v5/pkg/bindings/containers"
	"github.com/containers/podman/v5/pkg/bindings/images"
	"github.com/containers/podman/v5/pkg/domain/entities/types"
	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/agent/api"
)

// imageEntry is an image that Understudy brought to this node: nobody else had it here.
type imageEntry struct {
	Names  []string  `json:"names,omitempty"`  // that Understudy gave it
	Unused time.Time `json:"unused,omitempty"` // since when no service needs it; zero: one does
}

// lostImage is what a damaged image was before it was removed to be loaded anew.
type lostImage struct {
	Names   []string `json:"names,omitempty"`
	Brought bool     `json:"brought,omitempty"`
}

// Bring loads an archive as Load does, and remembers an image that was not here before:
// when no service needs it any more, it may be removed. One that was here, and was removed
// because it was damaged, becomes what it was.
func (c *Client) Bring(ctx context.Context, path, want string) (string, error) {
	_, err := c.Image(ctx, want)
	if ignoreNotFound(err) != nil {
		return "", err
	}
	absent := err != nil
	id, err := c.Load(ctx, path, want)
	if err != nil {
		return id, err
	}
	var lost bool
	if err := c.record.read(func(d *recordData) { _, lost = d.Lost[id] }); err != nil {
		return id, err
	}
	switch {
	case lost:
		return id, c.restoreLost(ctx)
	case absent:
		// After it was loaded: an image that is not remembered is never removed.
		return id, c.record.update(func(d *recordData) { d.Images[id] = imageEntry{} })
	}
	return id, nil
}

// restoreLost gives images that are here again the names that they had.
func (c *Client) restoreLost(ctx context.Context) error {
	var lost map[string]lostImage
	if err := c.record.read(func(d *recordData) { lost = maps.Clone(d.Lost) }); err != nil {
		return err
	}
	for id, l := range lost {
		_, err := c.Image(ctx, id)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		for _, name := range l.Names {
			if _, err := c.Image(ctx, name); !errors.Is(err, ErrNotFound) {
				continue // somebody has given it to another since
			}
			if err := c.Tag(ctx, id, []string{name}); err != nil {
				return err
			}
		}
		err = c.record.update(func(d *recordData) {
			delete(d.Lost, id)
			if l.Brought {
				d.Images[id] = imageEntry{Names: l.Names}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// brought are the images that Understudy brought.
func (c *Client) brought() (out map[string]imageEntry, err error) {
	err = c.record.read(func(d *recordData) { out = maps.Clone(d.Images) })
	return out, err
}

// gave remembers names that Understudy gave to an image that it brought.
func (r *record) gave(id string, names []string) error {
	var e imageEntry
	var ok bool
	if err := r.read(func(d *recordData) { e, ok = d.Images[id] }); err != nil {
		return err
	}
	more := without(names, e.Names)
	if !ok || len(more) == 0 {
		return nil
	}
	e.Names = append(slices.Clone(e.Names), more...)
	return r.update(func(d *recordData) { d.Images[id] = e })
}

// PruneImages removes images that Understudy brought and that have been needed by no
// service for as long as keep. An image that a container uses stays, whoever made the
// container, and so does one that somebody has given a name: it is theirs from then on.
func (c *Client) PruneImages(ctx context.Context, needed []string, keep time.Duration, now time.Time) (dropped []string, err error) {
	list, err := c.brought()
	if err != nil {
		return nil, err
	}
	for id, e := range list {
		switch {
		case slices.Contains(needed, id):
			if !e.Unused.IsZero() {
				e.Unused = time.Time{}
				err = c.record.update(func(d *recordData) { d.Images[id] = e })
			}
		case e.Unused.IsZero():
			e.Unused = now
			err = c.record.update(func(d *recordData) { d.Images[id] = e })
		case now.Sub(e.Unused) >= keep:
			var gone bool
			if gone, err = c.dropUnused(ctx, id, e); gone {
				dropped = append(dropped, id)
			}
		}
		if err != nil {
			return dropped, err
		}
	}
	slices.Sort(dropped)
	return dropped, nil
}

// dropUnused removes one image, or gives it up to whoever uses it.
func (c *Client) dropUnused(ctx context.Context, id string, e imageEntry) (gone bool, err error) {
	img, err := c.Image(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return false, c.forgetImage(id)
	case err != nil:
		return false, err
	case len(without(img.Names, e.Names)) > 0:
		return false, c.forgetImage(id)
	}
	users, err := c.usersOf(ctx, id)
	if err != nil || len(users) > 0 {
		return false, err
	}
	if err := c.removeImage(ctx, id, img.Names, false); err != nil {
		return false, errors.Join(err, ignoreNotFound(c.Tag(ctx, id, img.Names)))
	}
	_, err = c.Image(ctx, id) // one that others were built on stays
	return errors.Is(err, ErrNotFound), c.forgetImage(id)
}

func (c *Client) forgetImage(id string) error {
	return c.record.update(func(d *recordData) { delete(d.Images, id) })
}

// usersOf are the containers that were made of an image, also those of builds.
func (c *Client) usersOf(ctx context.Context, id string) ([]types.ListContainer, error) {
	list, err := call(ctx, c, "list containers", func(ctx context.Context) ([]types.ListContainer, error) {
		all := true
		return containers.List(ctx, &containers.ListOptions{All: &all, External: &all})
	})
	return slices.DeleteFunc(list, func(l types.ListContainer) bool { return bareID(l.ImageID) != id }), err
}

// removeImage removes an image with its names; one that a container uses is an error. force:
// with whatever names it has, and without asking what uses it.
func (c *Client) removeImage(ctx context.Context, id string, names []string, force bool) error {
	for _, name := range names {
		if err := c.untag(ctx, id, name); err != nil {
			return err
		}
	}
	err := do(ctx, c, "remove image "+id, func(ctx context.Context) error {
		_, errs := images.Remove(ctx, []string{id}, &images.RemoveOptions{Force: &force})
		return errors.Join(errs...)
	})
	return ignoreNotFound(err)
}

// VerifyImage reads an image out of Podman's storage, every layer of it. ErrDamaged says
// that the storage has lost some of it, as in a power cut: what it could not do for
// another reason says nothing of the image. Podman copies it to its temporary directory
// for that: where it would not fit twice, it is not read.
func (c *Client) VerifyImage(ctx context.Context, id string) error {
	if err := c.roomFor(ctx, id); err != nil {
		return err
	}
	err := c.ExportOCI(ctx, id, io.Discard)
	if err == nil || ctx.Err() != nil || responseCode(err) == 0 {
		return err
	}
	for _, sign := range []string{"integrity", "checksum", "layer not known", "no such file", "unexpected EOF", "size mismatch", "does not match", "not a directory", "short read"} {
		if strings.Contains(err.Error(), sign) {
			return fail(errors.Join(ErrDamaged, err), api.KindInstalled, "it is loaded anew", "image %s is damaged in Podman's storage: %s", id, message(err))
		}
	}
	return err
}

// roomFor wants room for two copies of an image where Podman exports it to.
func (c *Client) roomFor(ctx context.Context, id string) error {
	img, err := c.inspectImage(ctx, id)
	if err != nil {
		return err
	}
	info, err := c.info(ctx)
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(info.Store.ImageCopyTmpDir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: info.Store.ImageCopyTmpDir, Err: err}
	}
	if free := int64(st.Bavail) * st.Bsize; free < 2*img.Size { //nolint:unconvert // types differ by architecture
		return api.Errorf(api.KindGeneric, "free some space there", "image %.12s has %d MiB, and there are %d MiB free in %s: it is not checked for damage",
			id, img.Size>>20, free>>20, info.Store.ImageCopyTmpDir)
	}
	return nil
}

// DropDamaged removes images, one of them damaged, so that they can be loaded anew, with
// the containers of them that are Understudy's: Realise makes them again. Where anything
// else uses one, the error names it, and nothing is removed.
func (c *Client) DropDamaged(ctx context.Context, ids []string) error {
	users, err := c.mayDrop(ctx, ids)
	if err != nil {
		return err
	}
	for _, id := range ids {
		img, err := c.Image(ctx, id)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			return err
		}
		err = c.record.update(func(d *recordData) {
			if _, ok := d.Lost[id]; ok {
				return // killed here before: the names are half gone
			}
			e, ours := d.Images[id]
			if img.Names == nil { // Podman cannot even tell them
				img.Names = e.Names
			}
			d.Lost[id] = lostImage{Names: img.Names, Brought: ours}
		})
		if err != nil {
			return err
		}
	}
	for _, name := range users {
		if err := c.record.setContainer(name, entry{}); err != nil {
			return err
		}
		if err := c.removeForced(ctx, name); err != nil {
			return err
		}
	}
	for _, id := range ids {
		img, err := c.Image(ctx, id)
		unknown := errors.Is(err, ErrDamaged)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil && !unknown {
			return err
		}
		if err := c.removeImage(ctx, id, img.Names, unknown); err != nil {
			return err
		}
	}
	return nil
}

// mayDrop names the containers of the images, if all of them may be removed.
func (c *Client) mayDrop(ctx context.Context, ids []string) (users []string, err error) {
	for _, id := range ids {
		list, err := c.usersOf(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, u := range list {
			name := u.ID
			if len(u.Names) > 0 {
				name = u.Names[0]
			}
			_, ours, err := c.record.container(name)
			if err != nil {
				return nil, err
			}
			switch {
			case State(u.State).Alive():
				return nil, fail(ErrRunning, api.KindRefused, "stop the container, or move its service to the other node", "image %.12s is damaged, and container %s, which is %s, uses it", id, name, u.State)
			case !ours:
				return nil, fail(ErrForeign, api.KindRefused, "remove it: podman rm "+name, "image %.12s is damaged, and container %s, which is not Understudy's, uses it", id, name)
			}
			users = append(users, name)
		}
	}
	return users, nil
}

// Sharing lists the other images that have a layer of this one: a layer goes only with
// the last of them. One that is not in mine, and that Understudy did not bring, is an error.
func (c *Client) Sharing(ctx context.Context, id string, mine []string) ([]string, error) {
	var own []string
	if err := c.appendLayers(ctx, id, &own); err != nil {
		return nil, err
	}
	all, err := c.Images(ctx)
	if err != nil {
		return nil, err
	}
	brought, err := c.brought()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, other := range all {
		var layers []string
		if other == id || c.appendLayers(ctx, other, &layers) != nil { // it goes away, or is damaged too
			continue
		}
		if !slices.ContainsFunc(layers, func(l string) bool { return slices.Contains(own, l) }) {
			continue
		}
		if _, ours := brought[other]; !ours && !slices.Contains(mine, other) {
			return nil, fail(ErrForeign, api.KindRefused, "remove it with podman rmi, and load it again afterwards",
				"a layer of image %.12s is damaged, and image %.12s, which is not Understudy's, has it too", id, other)
		}
		out = append(out, other)
	}
	return out, nil
}
