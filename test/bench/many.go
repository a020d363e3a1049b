package main

import (
	"context"
	"fmt"
	"time"
)

// many is a service whose volume holds so many files, replicated and applied. It
// is made larger where it is there already, anew where it is too large.
func (s *site) many(ctx context.Context, n int) error {
	v := service{name: "many", args: "idle", interval: "1h"}
	if s.current.name == v.name && s.files > n {
		if err := s.remove(ctx); err != nil {
			return err
		}
	}
	if err := s.serve(ctx, v); err != nil {
		return err
	}
	if s.files == n {
		return nil
	}
	began := time.Now()
	err := s.tool(ctx, s.n1, nil, "files", "-dir", v.dir(), "-from", fmt.Sprint(s.files), "-to", fmt.Sprint(n), "-tiny", "-seed", s.seed())
	if err != nil {
		return err
	}
	s.files = n
	written := time.Now()
	if err := s.settle(ctx); err != nil {
		return err
	}
	s.say("%d files written in %.1f s, replicated and applied in %.1f s", n, written.Sub(began).Seconds(), time.Since(written).Seconds())
	return s.rest(ctx)
}
