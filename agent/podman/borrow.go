package podman

import (
	"context"
	"errors"
	"maps"
	"strings"

	"github.com/containers/podman/v5/libpod/define"
)

// A container shows the name of its image that it was made with, also when the image has
// lost that name since. To make it alike the image has to have the name for a moment.

// loan is a name that an image has for a moment.
type loan struct {
	From string `json:"from,omitempty"` // ID of the image whose name it is; empty: nobody's
	To   string `json:"to"`
}

// byDigest: the name has the digest of a manifest, which says how layers were compressed when the image came and is
// another on each node. It is nobody's to give.
func byDigest(name string) bool { return strings.Contains(name, "@") }

// carriedName is the name of a container's image on every node: its ID where it was made by digest.
func carriedName(d *define.InspectContainerData) string {
	if byDigest(d.ImageName) {
		return bareID(d.Image)
	}
	return d.ImageName
}

// borrow gives the image the name if it has it not, and says whether it did. What had the
// name is remembered durably first; giveBack restores that, also after a kill.
func (c *Client) borrow(ctx context.Context, name, id string) (bool, error) {
	if !strings.ContainsAny(name, ":/") || byDigest(name) || strings.HasPrefix(name, "sha256:") {
		return false, nil
	}
	owner, err := c.Image(ctx, name)
	if ignoreNotFound(err) != nil || owner.ID == id {
		return false, ignoreNotFound(err)
	}
	if err := c.record.update(func(d *recordData) { d.Borrowed[name] = loan{From: owner.ID, To: id} }); err != nil {
		return false, err
	}
	return true, c.Tag(ctx, id, []string{name})
}

// giveBack restores the names that were borrowed.
func (c *Client) giveBack(ctx context.Context) error {
	var loans map[string]loan
	if err := c.record.read(func(d *recordData) { loans = maps.Clone(d.Borrowed) }); err != nil {
		return err
	}
	for name, l := range loans {
		if err := c.giveBackOne(ctx, name, l); err != nil {
			return err
		}
	}
	return nil
}

// giveBackOne gives the name to the image that had it, or to none. A name that has gone
// to a third one by now is that one's.
func (c *Client) giveBackOne(ctx context.Context, name string, l loan) error {
	now, err := c.Image(ctx, name)
	if ignoreNotFound(err) != nil {
		return err
	}
	if err == nil && now.ID == l.To {
		err = ErrNotFound
		if l.From != "" {
			err = c.Tag(ctx, l.From, []string{name})
		}
		if errors.Is(err, ErrNotFound) { // or not any more
			err = c.untag(ctx, l.To, name)
		}
		if ignoreNotFound(err) != nil {
			return err
		}
	}
	return c.record.update(func(d *recordData) { delete(d.Borrowed, name) })
}
