package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/image"
	"github.com/understudy-ha/understudy/replication/wire"
)

// resendAfter is how long a peer has to load an image before it is sent again.
const resendAfter = time.Minute

// exporter writes an image as an uncompressed OCI archive to path.
type exporter func(ctx context.Context, id, path string) error

// Images sends a peer the images that it lacks, without the layers that it has.
func (p *peers) Images(ctx context.Context, name, to string, images []string, export func(ctx context.Context, id, path string) error) error {
	one, err := p.find(to)
	if err != nil {
		return err
	}
	return one.bulk.use(ctx, func(c *wire.Client) error {
		state, err := c.State(ctx, name)
		if err != nil {
			return err
		}
		var errs []error
		for _, id := range images {
			if slices.Contains(state.Images, id) || time.Since(one.sent[id]) < resendAfter {
				continue
			}
			began := time.Now()
			size, err := p.sendImage(ctx, c, name, id, state.Layers, export)
			if err != nil {
				errs = append(errs, fmt.Errorf("image %s: %w", id, err))
				continue
			}
			one.sent[id] = time.Now()
			p.log.Info("image sent", "service", name, "peer", one.name, "image", id, "bytes", size, "took", time.Since(began))
		}
		return errors.Join(errs...)
	})
}

// sendImage exports, thins and sends one image.
func (p *peers) sendImage(ctx context.Context, c *wire.Client, name, id string, layers []string, export exporter) (int64, error) {
	if err := os.MkdirAll(p.spool, 0o700); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp(p.spool, "image-*")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	full, thin := filepath.Join(dir, "full.tar"), filepath.Join(dir, "thin.tar")
	if err := export(ctx, id, full); err != nil {
		return 0, err
	}
	have := make(map[string]bool, len(layers))
	for _, l := range layers {
		have[l] = true
	}
	file, err := thinned(full, thin, have)
	if err != nil {
		return 0, err
	}
	return file.Size, c.PutImage(ctx, name, file, nil)
}

// thinned writes the archive at full without the layers in have to thin.
func thinned(full, thin string, have map[string]bool) (wire.File, error) {
	src, err := os.Open(full)
	if err != nil {
		return wire.File{}, err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return wire.File{}, err
	}
	dst, err := os.Create(thin)
	if err != nil {
		return wire.File{}, err
	}
	hash := blake3.New()
	info, err := image.Thin(io.MultiWriter(dst, hash), src, st.Size(), have)
	if err := errors.Join(err, dst.Close()); err != nil {
		return wire.File{}, err
	}
	return wire.File{Path: thin, Hash: replication.Hash(hash.Sum(nil)), Size: info.Bytes}, nil
}

// imageID reads the ID of the image in an archive that arrived.
func imageID(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	info, err := image.Inspect(f, st.Size())
	return strings.TrimSpace(info.ID), err
}
