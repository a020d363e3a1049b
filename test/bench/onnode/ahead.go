package main

import (
	"context"
	"sync"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/wire"
)

// ahead sends what is packed while the capture goes on, as the agent does.
type ahead struct {
	packed chan struct{}
	end    func()
	ended  sync.WaitGroup

	sent int64 // bytes
	err  error
}

func (n *node) shipAhead(ctx context.Context) *ahead {
	a := &ahead{packed: make(chan struct{}, 1)}
	done := make(chan struct{})
	a.end = sync.OnceFunc(func() { close(done) })
	a.ended.Go(func() {
		offered := map[replication.Hash]bool{}
		for a.err == nil {
			select {
			case <-done:
				return
			case <-a.packed:
				a.err = n.sendAhead(ctx, a, offered)
			}
		}
	})
	return a
}

func (n *node) sendAhead(ctx context.Context, a *ahead, offered map[replication.Hash]bool) (err error) {
	if n.peer == nil {
		if n.peer, err = wire.Dial(ctx, n.client); err != nil {
			return err
		}
	}
	var packs []store.PackFile
	for _, p := range n.engine.Ahead() {
		if !offered[p.Hash] {
			packs = append(packs, p)
			offered[p.Hash] = true
		}
	}
	report, err := wire.NewShipper(wire.ShipperOptions{Source: n.engine.Store(), Logger: n.log}).Ahead(ctx, n.peer, packs)
	a.sent += report.Bytes
	return err
}

// now says that something was packed.
func (a *ahead) now() {
	select {
	case a.packed <- struct{}{}:
	default:
	}
}

// stop waits for what is on its way. It may be called again.
func (a *ahead) stop() (sent int64, err error) {
	a.end()
	a.ended.Wait()
	return a.sent, a.err
}
