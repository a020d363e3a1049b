package agent

import (
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication"
)

// Diff compares two generations, committed or archived.
func (k Kept) Diff(from, to string) (res api.Diff, err error) {
	st, err := k.open()
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	a, err := find(st, from)
	if err != nil {
		return res, err
	}
	b, err := find(st, to)
	if err != nil {
		return res, err
	}
	res = api.Diff{Service: k.Service, From: from, To: to, Counts: map[string]int{}, Changes: []api.DiffChange{}}
	for _, c := range b.Compare(a) {
		res.Counts[string(c.Kind)]++
		res.New += c.Bytes
		res.Changes = append(res.Changes, api.DiffChange{
			Kind: string(c.Kind), Volume: c.Volume, Path: printable(c.Path), From: printable(c.From),
			Before: sizeOf(c.Before), After: sizeOf(c.After), New: c.Bytes,
		})
	}
	return res, nil
}

// printable is the path as text: names are bytes.
func printable(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	return strconv.Quote(path)
}

func sizeOf(e *replication.Entry) int64 {
	if e == nil {
		return 0
	}
	return e.Size
}
