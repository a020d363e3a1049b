package store

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/understudy-ha/understudy/replication"
)

// What Linux allows at most (limits.h, xattr(7)), and then some for paths that
// were made by walking.
const (
	maxName       = 255
	maxPath       = 64 << 10
	maxTarget     = 4095
	maxXattrs     = 4096
	maxXattrValue = 64 << 10
	maxImages     = 4096
	maxVolumes    = 4096
)

// safeName is what Podman allows for names; none of them is a path, hidden, or an option.
var safeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,199}$`)

// imageID is an image's ID as Podman writes it, with or without the algorithm.
var imageID = regexp.MustCompile(`^[a-z0-9]{1,16}(:[a-f0-9]{1,128})?$|^[a-f0-9]{1,128}$`)

// ValidName says whether a service's or a volume's name is safe as a file name; ErrBadPath.
func ValidName(what, name string) error {
	if !safeName.MatchString(name) {
		return fmt.Errorf("%w: %s name %q: letters, digits and _ . - are allowed, a letter or digit first", replication.ErrBadPath, what, name)
	}
	return nil
}

// Validate checks everything about m that can be seen from m alone.
func Validate(m *replication.Manifest) error {
	if err := validateHeader(m); err != nil {
		return err
	}
	var b budget
	last := ""
	for i := range m.Volumes {
		v := &m.Volumes[i]
		vv, err := newVolumeValidator(v.Name, last, v.Skipped, v.Entries, &b)
		if err != nil {
			return err
		}
		last = v.Name
		for e := range v.Entries.All() {
			if err := vv.entry(e); err != nil {
				return err
			}
		}
		if err := vv.end(); err != nil {
			return err
		}
	}
	return nil
}

func validateHeader(m *replication.Manifest) error {
	if m.Format != replication.FormatVersion {
		return fmt.Errorf("%w: manifest format %d, this node reads %d; install the same understudy on both nodes", replication.ErrFormat, m.Format, replication.FormatVersion)
	}
	if err := ValidName("service", m.Service); err != nil {
		return err
	}
	switch {
	case m.ID.Term == 0 || m.ID.Seq == 0:
		return fmt.Errorf("%w: generation %s: terms and sequences count from 1", replication.ErrFormat, m.ID)
	case !m.Parent.IsZero() && (m.Parent.Term == 0 || m.Parent.Seq == 0):
		return fmt.Errorf("%w: generation %s: its parent %s is no generation", replication.ErrFormat, m.ID, m.Parent)
	case m.Parent.Compare(m.ID) >= 0:
		return fmt.Errorf("%w: generation %s does not come after its parent %s", replication.ErrFormat, m.ID, m.Parent)
	case m.FreezeNs < 0:
		return fmt.Errorf("%w: generation %s: negative freeze", replication.ErrFormat, m.ID)
	case len(m.Definition) > maxDefinition:
		return fmt.Errorf("%w: generation %s: a definition of %d bytes, at most %d are carried", replication.ErrFormat, m.ID, len(m.Definition), maxDefinition)
	case len(m.Images) > maxImages:
		return fmt.Errorf("%w: generation %s: %d images", replication.ErrFormat, m.ID, len(m.Images))
	}
	for _, id := range m.Images {
		if !imageID.MatchString(id) {
			return fmt.Errorf("%w: generation %s: %q is not an image ID", replication.ErrFormat, m.ID, id)
		}
	}
	return nil
}

// budget counts over all volumes of a manifest.
type budget struct{ volumes, entries, chunks int }

// volumeValidator is fed a volume's entries in order.
type volumeValidator struct {
	volume  string
	budget  *budget
	last    string
	dirs    map[string]struct{}
	entries *replication.Entries // those before the one that it is fed, at least
}

func newVolumeValidator(name, last string, skipped int, es *replication.Entries, b *budget) (*volumeValidator, error) {
	if err := ValidName("volume", name); err != nil {
		return nil, err
	}
	if name <= last {
		return nil, fmt.Errorf("%w: volume %s after %s: not sorted", replication.ErrFormat, name, last)
	}
	if b.volumes++; b.volumes > maxVolumes {
		return nil, fmt.Errorf("%w: more than %d volumes", replication.ErrFormat, maxVolumes)
	}
	if skipped < 0 {
		return nil, fmt.Errorf("%w: volume %s: negative count", replication.ErrFormat, name)
	}
	return &volumeValidator{volume: name, budget: b, dirs: map[string]struct{}{}, entries: es}, nil
}

func (v *volumeValidator) bad(kind error, e *replication.Entry, format string, args ...any) error {
	path := e.Path
	if len(path) > 2*maxName {
		path = path[:2*maxName] + "…"
	}
	return fmt.Errorf("%w: volume %s, %q: %s", kind, v.volume, path, fmt.Sprintf(format, args...))
}

func (v *volumeValidator) end() error {
	if len(v.dirs) == 0 {
		return fmt.Errorf("%w: volume %s has no root", replication.ErrFormat, v.volume)
	}
	return nil
}

func (v *volumeValidator) count(e *replication.Entry) error {
	if v.budget.entries++; v.budget.entries > maxEntries {
		return v.bad(replication.ErrFormat, e, "more than %d entries", maxEntries)
	}
	if v.budget.chunks += len(e.Chunks); v.budget.chunks > maxChunks {
		return v.bad(replication.ErrFormat, e, "more than %d chunks", maxChunks)
	}
	return nil
}

func (v *volumeValidator) entry(e *replication.Entry) error {
	if err := v.count(e); err != nil {
		return err
	}
	if err := v.place(e); err != nil {
		return err
	}
	if e.Link != "" {
		return v.link(e)
	}
	if e.Type == replication.TypeDir {
		v.dirs[e.Path] = struct{}{}
	}
	return v.alone(e)
}

// alone checks what can be seen from an entry that is no hard link alone.
func (v *volumeValidator) alone(e *replication.Entry) error {
	if e.Mode > 0o7777 {
		return v.bad(replication.ErrFormat, e, "mode %o", e.Mode)
	}
	if err := v.xattrs(e); err != nil {
		return err
	}
	switch e.Type {
	case replication.TypeDir, replication.TypeFile, replication.TypeSymlink, replication.TypeFIFO, replication.TypeChar, replication.TypeBlock:
		return v.fields(e)
	}
	return v.bad(replication.ErrFormat, e, "type %d", e.Type)
}

// place checks the path by itself and against those before it.
func (v *volumeValidator) place(e *replication.Entry) error {
	if len(v.dirs) == 0 { // the first
		if e.Path != "." || e.Type != replication.TypeDir || e.Link != "" {
			return v.bad(replication.ErrFormat, e, "the first entry must be the root directory")
		}
		return nil
	}
	if err := checkPath(e.Path); err != nil {
		return v.bad(replication.ErrBadPath, e, "%s", err)
	}
	if e.Path <= v.last {
		return v.bad(replication.ErrFormat, e, "not sorted")
	}
	v.last = e.Path
	if _, ok := v.dirs[parentOf(e.Path)]; !ok {
		return v.bad(replication.ErrBadPath, e, "is not in a directory")
	}
	return nil
}

func parentOf(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return "."
}

// checkPath accepts relative, clean paths without "." and "..".
func checkPath(p string) error {
	if p == "" || len(p) > maxPath {
		return fmt.Errorf("a path of %d bytes", len(p))
	}
	if strings.IndexByte(p, 0) >= 0 {
		return fmt.Errorf("NUL in a path")
	}
	for c := range strings.SplitSeq(p, "/") {
		switch {
		case c == "", c == ".", c == "..":
			return fmt.Errorf("not a clean relative path")
		case len(c) > maxName:
			return fmt.Errorf("a name of %d bytes", len(c))
		}
	}
	return nil
}

func (v *volumeValidator) link(e *replication.Entry) error {
	to := v.entries.Get(e.Link)
	if to == nil || to.Link != "" || to.Type != e.Type || to.Type == replication.TypeDir || e.Link >= e.Path {
		return v.bad(replication.ErrBadPath, e, "hard link to %q, which is not an earlier file of that type", e.Link)
	}
	return v.bareLink(e)
}

// bareLink: content and metadata of a hard link are at what it links to.
func (v *volumeValidator) bareLink(e *replication.Entry) error {
	if e.Size != 0 || e.Rdev != 0 || e.Target != "" || len(e.Xattrs) != 0 || len(e.Chunks) != 0 || e.Mode != 0 || e.Flags != 0 || e.UID != 0 || e.GID != 0 || e.MtimeNs != 0 {
		return v.bad(replication.ErrFormat, e, "a hard link with metadata of its own")
	}
	return nil
}

func (v *volumeValidator) xattrs(e *replication.Entry) error {
	if len(e.Xattrs) > maxXattrs {
		return v.bad(replication.ErrFormat, e, "%d extended attributes", len(e.Xattrs))
	}
	for name, value := range e.Xattrs {
		ns, _, ok := strings.Cut(name, ".")
		known := ns == "user" || ns == "trusted" || ns == "security" || ns == "system"
		if !ok || !known || len(name) > maxName || strings.IndexByte(name, 0) >= 0 || len(value) > maxXattrValue {
			return v.bad(replication.ErrFormat, e, "extended attribute %.300q of %d bytes", name, len(value))
		}
	}
	return nil
}

// fields checks that an entry has what its type has, and nothing else.
func (v *volumeValidator) fields(e *replication.Entry) error {
	isFile, isLink := e.Type == replication.TypeFile, e.Type == replication.TypeSymlink
	isDev := e.Type == replication.TypeChar || e.Type == replication.TypeBlock
	switch {
	case e.Flags&^(replication.FlagImmutable|replication.FlagAppendOnly) != 0, e.Flags != 0 && !isFile && e.Type != replication.TypeDir:
		return v.bad(replication.ErrFormat, e, "flags %x", e.Flags)
	case !isFile && (e.Size != 0 || len(e.Chunks) != 0):
		return v.bad(replication.ErrFormat, e, "content in what is not a file")
	case isLink != (e.Target != ""), len(e.Target) > maxTarget, strings.IndexByte(e.Target, 0) >= 0:
		return v.bad(replication.ErrFormat, e, "symlink target")
	case !isDev && e.Rdev != 0:
		return v.bad(replication.ErrFormat, e, "device number")
	case e.Size < 0:
		return v.bad(replication.ErrFormat, e, "size %d", e.Size)
	}
	end := int64(0)
	for _, c := range e.Chunks {
		if c.Offset < end || c.Length < 1 || c.Length > replication.ChunkSize || c.Offset > e.Size-c.Length ||
			c.Skip < 0 || c.Skip > replication.ChunkSize-c.Length {
			return v.bad(replication.ErrFormat, e, "chunk of %d bytes at %d in a file of %d bytes", c.Length, c.Offset, e.Size)
		}
		end = c.Offset + c.Length
	}
	return nil
}
