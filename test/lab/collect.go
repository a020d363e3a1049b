package lab

import (
	"context"
	"errors"
)

func (l *Lab) CollectLogs(ctx context.Context, dir string) error { return errors.New("later") }
