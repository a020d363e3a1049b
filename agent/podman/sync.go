package podman

import (
	"context"
	"os"

	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/bindings/system"
	"golang.org/x/sys/unix"
)

// Sync makes durable what Podman has written to its storage: it syncs nothing itself.
func (c *Client) Sync(ctx context.Context) error {
	info, err := c.info(ctx)
	if err != nil {
		return err
	}
	f, err := os.Open(info.Store.GraphRoot)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: info.Store.GraphRoot, Err: err}
	}
	return nil
}

// info says where Podman keeps what.
func (c *Client) info(ctx context.Context) (*define.Info, error) {
	return call(ctx, c, "ask Podman where it keeps what", func(ctx context.Context) (*define.Info, error) {
		return system.Info(ctx, nil)
	})
}
