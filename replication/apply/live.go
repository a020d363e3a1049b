package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/tree"
)

// unlike is the size of a live file whose content is not what is wanted.
const unlike = -1

// liveEntries describes the live tree in terms of want: a file with the wanted
// content has want's chunks, any other the size unlike. What want does not have
// is only named. Sockets have type 0.
func liveEntries(ctx context.Context, g Generations, root *tree.Root, want *replication.Entries) (*replication.Entries, error) {
	nodes, err := root.Scan(ctx)
	if err != nil {
		return nil, err
	}
	leads := map[uint64]string{}
	live := replication.NewEntries()
	for _, n := range nodes {
		e := replication.Entry{Path: n.Path, Type: n.Stat.Type()}
		w := want.Get(n.Path)
		key := n.Stat.Ino
		lead, linked := leads[key]
		switch {
		case linked:
			e.Link = lead
		case w != nil && e.Type != 0:
			if e, err = liveEntry(ctx, g, root, *n, w); err != nil {
				return nil, err
			}
			fallthrough
		default:
			if n.Stat.Linked() {
				leads[key] = n.Path
			}
		}
		live.Set(&e)
	}
	return live, nil
}

func liveEntry(ctx context.Context, g Generations, root *tree.Root, n tree.Node, want *replication.Entry) (replication.Entry, error) {
	e, err := root.Meta(n.Path, n.Stat)
	if err != nil || e.Type != replication.TypeFile {
		return e, err
	}
	if want.Type != replication.TypeFile || want.Link != "" || want.Size != e.Size {
		e.Size = unlike
		return e, nil
	}
	f, err := root.Open(n.Path)
	if err != nil {
		return e, err
	}
	defer f.Close()
	same, err := matches(ctx, g, f, want)
	if err != nil {
		return e, err
	}
	e.Chunks = want.Chunks
	if !same {
		e.Size = unlike
	}
	return e, nil
}

// Verify compares the trees with the generation by content and metadata, and
// returns the differences, in words; none: they are the same. Labels that a
// kernel gives out by itself are not compared, nor flags where the file system has none.
func (a *Applier) Verify(ctx context.Context, id replication.ID, roots map[string]string) ([]string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m, err := a.loadLocked(id)
	if err != nil {
		return nil, err
	}
	var diffs []string
	for i := range m.Volumes {
		v := &m.Volumes[i]
		if roots[v.Name] == "" {
			diffs = append(diffs, fmt.Sprintf("volume %s: not on this node", v.Name))
			continue
		}
		d, err := verifyVolume(ctx, a.g, v, roots[v.Name])
		if err != nil {
			return diffs, fmt.Errorf("volume %s: %w", v.Name, err)
		}
		diffs = append(diffs, d...)
	}
	return diffs, nil
}

func verifyVolume(ctx context.Context, g Generations, v *replication.Volume, path string) (diffs []string, err error) {
	root, err := tree.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	live, err := liveEntries(ctx, g, root, v.Entries)
	if err != nil {
		return nil, err
	}
	flags := root.HasFlags()
	say := func(path, what string) { diffs = append(diffs, fmt.Sprintf("volume %s, %q: %s", v.Name, path, what)) }
	for want := range v.Entries.All() {
		got := live.Get(want.Path)
		switch {
		case got == nil:
			say(want.Path, "is missing")
		case got.Type != want.Type:
			say(want.Path, "has another type")
		case got.Link != want.Link:
			say(want.Path, "is linked otherwise")
		case !got.SameContent(want):
			say(want.Path, "has other content")
		case want.Link == "" && !likeHere(got, flags).SameMeta(likeHere(want, flags)):
			say(want.Path, "has other metadata")
		}
	}
	for got := range live.All() {
		if v.Entries.Get(got.Path) == nil {
			say(got.Path, "should not be there")
		}
	}
	return diffs, nil
}

// likeHere is e without what this node may have otherwise.
func likeHere(e *replication.Entry, flags bool) *replication.Entry {
	c := *e
	if !flags {
		c.Flags = 0
	}
	c.Xattrs = maps.Clone(e.Xattrs)
	maps.DeleteFunc(c.Xattrs, func(name string, _ []byte) bool { return tree.KernelLabel(name) || tree.ACLAlias(name) })
	return &c
}

// Materialize writes the generation into dir/<volume> for each of its volumes,
// made where they are missing, outside of any live tree. What else is in these
// directories is removed. It answers what of the metadata could not be written.
func Materialize(ctx context.Context, g Generations, id replication.ID, dir string) (*Unkept, error) {
	m, err := g.Load(id)
	if err != nil {
		return &Unkept{}, err
	}
	res := &Result{}
	for i := range m.Volumes {
		if err := materialize(ctx, g, &m.Volumes[i], filepath.Join(dir, m.Volumes[i].Name), res); err != nil {
			return &res.Unkept, fmt.Errorf("generation %s, volume %s: %w", id, m.Volumes[i].Name, err)
		}
	}
	return &res.Unkept, nil
}

func materialize(ctx context.Context, g Generations, v *replication.Volume, path string, res *Result) (err error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	root, err := tree.OpenRoot(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	live, err := liveEntries(ctx, g, root, v.Entries)
	if err != nil {
		return err
	}
	w := &worker{root: root, g: g, res: res, volume: v.Name, from: live, to: v.Entries, fresh: true}
	put, del := replication.Diff(live, v.Entries)
	if err := w.run(ctx, put, del); err != nil {
		return err
	}
	return root.Sync()
}
