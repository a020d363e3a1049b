package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files and scripts")

func contains(s, sub string) bool { return strings.Contains(s, sub) }

// fakeAgentMain answers on a unix socket with what lies in a directory: fakeagent SOCKET DIR.
// /v1/status is status.json, /v1/services/x/ready is ready.json, and so on; NAME.error is an
// api.Error to answer with instead. NOW in a file becomes the time in Unix ns.
func fakeAgentMain() {
	socket, dir := os.Args[1], os.Args[2]
	ctx, stop := signalled()
	defer stop()
	l, err := net.Listen("unix", socket)
	fail(err)
	srv := &http.Server{Handler: fakeAgent(dir)}
	go func() { <-ctx.Done(); _ = srv.Close() }()
	_ = srv.Serve(l)
}

func fakeAgent(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := filepath.Base(r.URL.Path)
		note(filepath.Join(dir, "requests"), r.Method+" "+r.URL.Path)
		if b, err := os.ReadFile(filepath.Join(dir, name+".error")); err == nil {
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write(b)
			return
		}
		b, err := os.ReadFile(filepath.Join(dir, name+".json"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(strings.ReplaceAll(string(b), "NOW", fmt.Sprint(time.Now().UnixNano()))))
		if r.URL.Query().Get("follow") != "" {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
}

func note(path, line string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		fmt.Fprintln(f, line)
		_ = f.Close()
	}
}

// fakeWebMain is a service on loopback that writes its address into a file and keeps numbers:
// fakeweb FILE. While the file DOWN exists beside it, it answers 503.
func fakeWebMain() {
	ctx, stop := signalled()
	defer stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	down := filepath.Join(filepath.Dir(os.Args[1]), "DOWN")
	store := os.Args[1] + ".numbers"
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Lstat(down); err == nil {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		if r.Method == http.MethodPost {
			note(store, filepath.Base(r.URL.Path))
		}
		if r.URL.Path == "/list" {
			b, _ := os.ReadFile(store)
			_, _ = w.Write(b)
		}
	})}
	go func() { <-ctx.Done(); _ = srv.Close() }()
	fail(os.WriteFile(os.Args[1]+".new", []byte("http://"+l.Addr().String()), 0o644))
	fail(os.Rename(os.Args[1]+".new", os.Args[1]))
	_ = srv.Serve(l)
}
