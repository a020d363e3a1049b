package wire

import (
	"fmt"
	"strings"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
)

// kind is what a virtual path names.
type kind int

const (
	kindRoot     kind = iota + 1 // /
	kindService                  // /<service>
	kindState                    // /<service>/state
	kindWant                     // /<service>/want
	kindDir                      // /<service>/{incoming,packs,generations,images}
	kindPack                     // /<service>/{incoming,packs}/<hash>.pack
	kindManifest                 // /<service>/{incoming,generations}/<id>.manifest
	kindImage                    // /<service>/{incoming,images}/<hash>.image
)

// Directories of a service, as on the wire and in the store alike.
const (
	dirIncoming    = "incoming"
	dirPacks       = "packs"
	dirGenerations = "generations"
	dirImages      = "images"
)

const (
	suffixPack     = ".pack"
	suffixManifest = ".manifest"
	suffixImage    = ".image"
)

// node is a virtual path, taken apart and checked. Only what was made from
// here reaches the file system: base is rebuilt from a parsed hash or ID, never
// copied from the path.
type node struct {
	kind    kind
	service string
	dir     string
	base    string
	hash    replication.Hash
	id      replication.ID
}

// resolve takes a cleaned absolute path apart. It accepts exactly the names of
// the table in DESIGN.md.
func resolve(p string) (node, error) {
	bad := func() (node, error) {
		return node{}, fmt.Errorf("%w: there is no %q here", ErrNotAllowed, p)
	}
	rest, ok := strings.CutPrefix(p, "/")
	if !ok {
		return bad()
	}
	if rest == "" {
		return node{kind: kindRoot}, nil
	}
	parts := strings.Split(rest, "/")
	n := node{kind: kindService, service: parts[0]}
	if err := store.ValidName("service", n.service); err != nil {
		return node{}, err
	}
	switch len(parts) {
	case 1:
		return n, nil
	case 2:
		switch parts[1] {
		case "state":
			n.kind = kindState
		case "want":
			n.kind = kindWant
		case dirIncoming, dirPacks, dirGenerations, dirImages:
			n.kind, n.dir = kindDir, parts[1]
		default:
			return bad()
		}
		return n, nil
	case 3:
		n.dir = parts[1]
		if !n.file(parts[2]) {
			return bad()
		}
		return n, nil
	}
	return bad()
}

// file reads a base name and says whether it belongs into n's directory.
func (n *node) file(base string) bool {
	var home string
	if stem, ok := strings.CutSuffix(base, suffixManifest); ok {
		id, err := replication.ParseID(stem)
		if err != nil || id.IsZero() {
			return false
		}
		n.kind, n.id, n.base, home = kindManifest, id, id.String()+suffixManifest, dirGenerations
	} else {
		stem, suffix := base, ""
		for k, s := range map[kind]string{kindPack: suffixPack, kindImage: suffixImage} {
			if cut, ok := strings.CutSuffix(base, s); ok {
				stem, suffix, n.kind = cut, s, k
			}
		}
		h, err := store.ParseHash(stem)
		if suffix == "" || err != nil {
			return false
		}
		home = dirPacks
		if n.kind == kindImage {
			home = dirImages
		}
		n.hash, n.base = h, h.String()+suffix
	}
	return n.dir == dirIncoming || n.dir == home
}

// target is where a file of incoming is renamed to.
func (n node) target() string {
	switch n.kind {
	case kindPack:
		return packPath(n.service, dirPacks, n.hash)
	case kindImage:
		return imagePath(n.service, dirImages, n.hash)
	default:
		return manifestPath(n.service, dirGenerations, n.id)
	}
}

func packPath(service, dir string, h replication.Hash) string {
	return "/" + service + "/" + dir + "/" + h.String() + suffixPack
}

func imagePath(service, dir string, h replication.Hash) string {
	return "/" + service + "/" + dir + "/" + h.String() + suffixImage
}

func manifestPath(service, dir string, id replication.ID) string {
	return "/" + service + "/" + dir + "/" + id.String() + suffixManifest
}
