package config

import (
	"errors"
	"sort"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile bounds the configuration and every key file, in bytes.
const maxFile = 1 << 20

// document is a TOML text with the line of each of its keys, and the problems
// found in it so far.
type document struct {
	path     string
	root     map[string]any
	lines    map[string]int // by key path, see join
	problems []Problem
}

func newDocument(path string, data []byte) *document {
	d := &document{path: path, lines: map[string]int{}}
	if len(data) > maxFile {
		d.add(0, "look at what is in it", "the file is larger than %d bytes", maxFile)
		return d
	}
	var root map[string]any
	if err := toml.Unmarshal(data, &root); err != nil {
		d.syntax(err)
		return d
	}
	d.root = root
	if root == nil {
		d.root = map[string]any{}
	}
	d.locate(data)
	return d
}

func (d *document) syntax(err error) {
	const next = "correct the line; strings need quotes, as in node = \"n1\""
	var de *toml.DecodeError
	if errors.As(err, &de) {
		row, _ := de.Position()
		d.add(row, next, "not TOML: %s", strings.TrimPrefix(de.Error(), "toml: "))
		return
	}
	d.add(0, next, "not TOML: %s", strings.TrimPrefix(err.Error(), "toml: "))
}

// join makes the path of a key below a path; NUL cannot occur in TOML, so a
// quoted key with a dot in it is not taken for two.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "\x00" + key
}

// locate notes every key's line. The text is known to be TOML.
func (d *document) locate(data []byte) {
	p := unstable.Parser{}
	p.Reset(data)
	l := locator{lines: d.lines, arrays: map[string]int{}}
	for i, b := range data {
		if b == '\n' {
			l.newlines = append(l.newlines, i)
		}
	}
	for p.NextExpression() {
		l.expression(p.Expression())
	}
}

type locator struct {
	newlines []int // offsets
	lines    map[string]int
	arrays   map[string]int // tables so far of an array of tables
	prefix   string         // the table whose keys follow
}

func (l *locator) line(n *unstable.Node) int {
	return 1 + sort.SearchInts(l.newlines, int(n.Raw.Offset))
}

func (l *locator) expression(n *unstable.Node) {
	switch n.Kind {
	case unstable.Table:
		l.prefix = l.keys("", n.Key(), false)
	case unstable.ArrayTable:
		l.prefix = l.keys("", n.Key(), true)
	case unstable.KeyValue:
		l.value(l.keys(l.prefix, n.Key(), false), n.Value())
	default:
	}
}

// keys walks a dotted key below prefix, notes each part's line and returns the
// path it ends at. A part that is an array of tables means its last table;
// with last set, the final part opens a further one.
func (l *locator) keys(prefix string, it unstable.Iterator, last bool) string {
	for it.Next() {
		n := it.Node()
		prefix = join(prefix, string(n.Data))
		if _, ok := l.lines[prefix]; !ok {
			l.lines[prefix] = l.line(n)
		}
		opens := last && it.IsLast()
		if opens {
			l.arrays[prefix]++
		}
		if k := l.arrays[prefix]; k > 0 {
			prefix = join(prefix, strconv.Itoa(k-1))
		}
		if opens {
			l.lines[prefix] = l.line(n)
		}
	}
	return prefix
}

func (l *locator) value(path string, n *unstable.Node) {
	it := n.Children()
	switch n.Kind {
	case unstable.InlineTable:
		for it.Next() {
			if kv := it.Node(); kv.Kind == unstable.KeyValue {
				l.value(l.keys(path, kv.Key(), false), kv.Value())
			}
		}
	case unstable.Array:
		for i := 0; it.Next(); i++ {
			at := join(path, strconv.Itoa(i))
			l.lines[at] = l.lines[path]
			l.value(at, it.Node())
		}
	default:
	}
}
