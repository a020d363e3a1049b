package lab

import (
	"context"
	"errors"
	"time"
)

type ClusterOptions struct{ Token time.Duration }

func (l *Lab) StartCluster(ctx context.Context, o ClusterOptions) error { return errors.New("later") }
