package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// serveRelay is a cable of a given length between two ends of TCP: every byte
// arrives so much later, and no fewer of them per second. What is under way is
// bounded, as a socket's buffers bound it on a real line.
func serveRelay(ctx context.Context, f *flag.FlagSet, args []string) (any, error) {
	listen := f.String("listen", "127.0.0.1:2222", "address to listen on")
	to := f.String("to", "", "address to connect to")
	delay := f.Duration("delay", 5*time.Millisecond, "one way")
	window := f.Int("window", 6<<20, "bytes under way at most, each way: Linux lets a socket's buffer grow to 6 MiB")
	_ = f.Parse(args) // exits on error
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		all.Go(func() {
			defer c.Close()
			// The handshake's round trip.
			if pause(ctx, 2**delay) != nil {
				return
			}
			d, err := net.Dial("tcp", *to)
			if err != nil {
				return
			}
			defer d.Close()
			defer context.AfterFunc(ctx, func() { c.Close(); d.Close() })()
			var both sync.WaitGroup
			both.Go(func() { late(ctx, d, c, *delay, *window) })
			late(ctx, c, d, *delay, *window)
			both.Wait()
		})
	}
}

// piece is what arrived together, and when it may go on.
type piece struct {
	b   []byte
	due time.Time
}

// late copies from src to dst, each piece delay after it came; it ends when src
// does or either fails.
func late(ctx context.Context, dst, src net.Conn, delay time.Duration, window int) {
	room := semaphore.NewWeighted(int64(window))
	line := make(chan piece, 1<<14)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(line)
		for {
			b := make([]byte, min(window, 64<<10))
			n, err := src.Read(b)
			if n > 0 {
				if room.Acquire(ctx, int64(n)) != nil {
					return
				}
				select {
				case line <- piece{b[:n], time.Now().Add(delay)}:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	var failed error
	for p := range line {
		if failed == nil {
			failed = pause(ctx, time.Until(p.due))
		}
		if failed == nil {
			_, failed = dst.Write(p.b)
		}
		room.Release(int64(len(p.b)))
		if failed != nil {
			src.Close() // ends the reader; what it had read is drained
		}
	}
	reader.Wait()
	if c, ok := dst.(*net.TCPConn); ok && failed == nil {
		failed = c.CloseWrite()
	}
	if failed != nil && !errors.Is(failed, io.EOF) {
		dst.Close()
	}
}

// pause waits so long, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
