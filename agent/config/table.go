package config

import (
	"fmt"
	"sort"
	"strconv"
)

// table is one table of a document. Each typed reader notes the key as known,
// reports what is wrong with its value, and then returns something harmless,
// so that reading goes on and finds the rest.
type table struct {
	doc   *document
	at    string // path, see join
	name  string // as an operator writes it: "", "gossip", "peer"
	m     map[string]any
	known []string
}

func (d *document) table(at string, m map[string]any) *table {
	return &table{doc: d, at: at, name: at, m: m}
}

// line is where a key is, or where its table begins when it is not there.
func (t *table) line(key string) int {
	if n, ok := t.doc.lines[join(t.at, key)]; ok {
		return n
	}
	return t.doc.lines[t.at]
}

func (t *table) problem(key, next, format string, args ...any) {
	t.doc.add(t.line(key), next, format, args...)
}

func (t *table) has(key string) bool {
	_, ok := t.m[key]
	return ok
}

// get notes the key as known and returns its value.
func (t *table) get(key string) (any, bool) {
	t.known = append(t.known, key)
	v, ok := t.m[key]
	return v, ok
}

// text reads a string; example is what to write instead of something else.
func (t *table) text(key, example string) (string, bool) {
	v, ok := t.get(key)
	if !ok {
		return "", false
	}
	s, isText := v.(string)
	if !isText {
		t.problem(key, fmt.Sprintf("write %s = %q", key, example), "%s must be a string in quotes, not %s", t.full(key), kindOf(v))
		return "", false
	}
	return s, true
}

// full is the key as an operator would look for it.
func (t *table) full(key string) string {
	if t.name == "" {
		return key
	}
	return t.name + "." + key
}

// child reads a table; an empty one when it is not there.
func (t *table) child(key string) *table {
	c := &table{doc: t.doc, at: join(t.at, key), name: key, m: map[string]any{}}
	v, ok := t.get(key)
	if !ok {
		return c
	}
	m, isTable := v.(map[string]any)
	if !isTable {
		t.problem(key, fmt.Sprintf("write [%s] on a line of its own and its keys below it", key), "%s must be a table, not %s", key, kindOf(v))
		return c
	}
	c.m = m
	return c
}

// children reads an array of tables.
func (t *table) children(key string) []*table {
	v, ok := t.get(key)
	if !ok {
		return nil
	}
	next := fmt.Sprintf("write [[%s]] on a line of its own, once per %s, and its keys below it", key, key)
	list, isList := v.([]any)
	if !isList {
		t.problem(key, next, "%s must be an array of tables, not %s", key, kindOf(v))
		return nil
	}
	var out []*table
	for i, e := range list {
		at := join(join(t.at, key), strconv.Itoa(i))
		m, isTable := e.(map[string]any)
		if !isTable {
			t.problem(key, next, "%s must be an array of tables, not of %s", key, kindOf(e))
			continue
		}
		out = append(out, &table{doc: t.doc, at: at, name: key, m: m})
	}
	return out
}

// done reports the keys that nothing read.
func (t *table) done() {
	known := map[string]bool{}
	for _, k := range t.known {
		known[k] = true
	}
	var unknown []string
	for k := range t.m {
		if !known[k] {
			unknown = append(unknown, k)
		}
	}
	sort.Strings(unknown)
	for _, k := range unknown {
		where := ""
		if t.name != "" {
			where = " in [" + t.name + "]"
		}
		t.problem(k, t.instead(k), "unknown key %q%s", k, where)
	}
}

func kindOf(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "a number"
	case float64:
		return "a fraction"
	case bool:
		return "true or false"
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	default:
		return "a date or time"
	}
}
