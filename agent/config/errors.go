package config

import (
	"fmt"
	"sort"
	"strings"

	"github.com/understudy-ha/understudy/agent/api"
)

// Problem is one thing wrong with a configuration.
type Problem struct {
	Line    int    // from 1; 0: the file as a whole
	Message string // what is wrong
	Next    string // what to write or do instead
}

// Error is everything wrong with a configuration, in the order of its lines.
type Error struct {
	Path     string
	Problems []Problem
}

// Error has one line per problem: "file:line: what is wrong; what to do".
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		where := e.Path
		if p.Line > 0 {
			where = fmt.Sprintf("%s:%d", e.Path, p.Line)
		}
		lines[i] = where + ": " + p.Message + "; " + p.Next
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives the error its kind: a parameter that is wrong on this node.
func (e *Error) Unwrap() error {
	return api.Errorf(api.KindArgs, "correct it and try again", "%s has %d problem(s)", e.Path, len(e.Problems))
}

func (d *document) add(line int, next, format string, args ...any) {
	d.problems = append(d.problems, Problem{Line: line, Message: fmt.Sprintf(format, args...), Next: next})
}

func (d *document) err() error {
	if len(d.problems) == 0 {
		return nil
	}
	sort.SliceStable(d.problems, func(i, j int) bool { return d.problems[i].Line < d.problems[j].Line })
	return &Error{Path: d.path, Problems: d.problems}
}
