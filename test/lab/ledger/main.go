// Command ledger is the service by which the lab counts lost writes: it answers an append only when
// the number is on disk.
//
//	POST /append?n=N  appends N to /data/ledger, syncs, then answers 200
//	GET /list         all numbers, one a line, in the order of arrival
//	GET /healthz      200
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func main() { os.Exit(run()) }

func run() int {
	addr := flag.String("listen", ":8080", "address to listen on")
	path := flag.String("file", "/data/ledger", "file to append to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx, *addr, *path); err != nil {
		fmt.Fprintln(os.Stderr, "ledger:", err)
		return 1
	}
	return 0
}

// serve ends soon after ctx does: requests in hand are answered.
func serve(ctx context.Context, addr, path string) error {
	b, err := open(path)
	if err != nil {
		return err
	}
	defer b.f.Close()
	srv := &http.Server{Addr: addr, Handler: b.handler(), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	soon, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = srv.Shutdown(soon)
	return nil
}

// book is the file of numbers, one decimal number a line.
type book struct {
	mu sync.Mutex // one append and its sync at a time
	f  *os.File
}

// open cuts off a last line without its newline: it was never acknowledged, and the next number would
// be glued to it.
func open(path string) (*book, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	all, err := os.ReadFile(path)
	if err == nil && len(all) > 0 && all[len(all)-1] != '\n' {
		err = f.Truncate(int64(bytes.LastIndexByte(all, '\n') + 1))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &book{f: f}, nil
}

func (b *book) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /append", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseUint(r.FormValue("n"), 10, 64)
		if err != nil {
			http.Error(w, "append needs n=NUMBER", http.StatusBadRequest)
			return
		}
		if err := b.append(n); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, n)
	})
	mux.HandleFunc("GET /list", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, b.f.Name())
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

func (b *book) append(n uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := fmt.Fprintln(b.f, n); err != nil {
		return err
	}
	return b.f.Sync()
}
