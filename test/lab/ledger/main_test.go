package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

func TestLedger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	// A torn last line was never acknowledged.
	if err := os.WriteFile(path, []byte("1\n2\n33"), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.f.Close()
	srv := httptest.NewServer(b.handler())
	defer srv.Close()
	for _, c := range []struct {
		method, path string
		code         int
		body         string
	}{
		{"POST", "/append?n=7", 200, "7\n"},
		{"POST", "/append?n=8", 200, "8\n"},
		{"POST", "/append?n=x", 400, "append needs n=NUMBER\n"},
		{"POST", "/append", 400, "append needs n=NUMBER\n"},
		{"GET", "/append?n=9", 405, "Method Not Allowed\n"},
		{"GET", "/list", 200, "1\n2\n7\n8\n"},
		{"GET", "/healthz", 200, "ok\n"},
	} {
		req, _ := http.NewRequest(c.method, srv.URL+c.path, nil)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.code || string(body) != c.body {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, resp.StatusCode, body, c.code, c.body)
		}
	}
}
