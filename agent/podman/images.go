package podman

import (
	"context"
	"slices"

	"github.com/containers/podman/v5/pkg/bindings/images"
	"github.com/containers/podman/v5/pkg/domain/entities/types"
)

// Images lists the IDs of all images present, sorted, as [ImageDef] has them.
func (c *Client) Images(ctx context.Context) ([]string, error) {
	list, err := call(ctx, c, "list images", func(ctx context.Context) ([]*types.ImageSummary, error) {
		return images.List(ctx, nil)
	})
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(list))
	for _, i := range list {
		ids = append(ids, bareID(i.ID))
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
