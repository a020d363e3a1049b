//go:build lab

// Package readme runs the commands of README's walk-through as they are written, on
// two nodes that have nothing but the packages.
package readme

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/test/lab"
	"github.com/understudy-ha/understudy/test/stack"
)

// block is a fenced block of README that names where it is run: "```sh n1".
type block struct {
	where  string // n1, n2 or both
	wait   bool   // repeat until it succeeds
	script string
}

func blocks(t *testing.T) []block {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []block
	in := false
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := sc.Text()
		switch {
		case strings.HasPrefix(line, "```sh "):
			words := strings.Fields(line)[1:]
			list = append(list, block{where: words[0], wait: len(words) > 1 && words[1] == "wait"})
			in = true
		case line == "```":
			in = false
		case in:
			list[len(list)-1].script += line + "\n"
		}
	}
	if len(list) < 8 {
		t.Fatalf("README has %d blocks to run; the walk-through is missing", len(list))
	}
	return list
}

func TestWalkThrough(t *testing.T) {
	list := blocks(t)
	deb, err := stack.Deb()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	l, err := lab.Up(ctx, lab.Options{Name: "readme", Deb: deb, Out: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			_ = l.CollectLogs(context.Background(), filepath.Join("..", "..", "build", "readme"))
		}
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	// What the reader has: root's SSH between the nodes, and images on the first.
	if err := l.TrustSSH(ctx); err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{"registry", "ledger"} {
		if err := l.Node("n1").LoadImage(ctx, image); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range list {
		for _, n := range l.Nodes() {
			if b.where != n.Name() && b.where != "both" {
				continue
			}
			if err := run(ctx, n, b); err != nil {
				t.Fatalf("README on %s:\n%s\n%v", n.Name(), b.script, err)
			}
		}
		if strings.Contains(b.script, "pcs cluster start") {
			if err := l.WaitOnline(ctx, "n1", "n2"); err != nil {
				t.Fatal(err)
			}
			fence(ctx, t, l.Node("n1"))
		}
	}
	out, err := l.Node("n2").Exec(ctx, "understudy", "status")
	if err != nil || !strings.Contains(string(out), "active") {
		t.Errorf("after the switchover: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// run runs a block as one script, as if pasted.
func run(ctx context.Context, n *lab.Node, b block) error {
	fmt.Fprintf(os.Stderr, "%s# %s", n.Name(), strings.ReplaceAll(b.script, "\n", "\n    "))
	fmt.Fprintln(os.Stderr)
	for end := time.Now().Add(2 * time.Minute); ; {
		_, err := n.Shell(ctx, b.script)
		if err == nil || !b.wait || time.Now().After(end) {
			return err
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// fence is the one thing that README leaves to the reader.
func fence(ctx context.Context, t *testing.T, n1 *lab.Node) {
	t.Helper()
	script := ""
	for _, n := range []string{"n1", "n2"} {
		script += fmt.Sprintf("pcs stonith create fence-%[1]s fence_lab plug=%[1]s pcmk_host_list=%[1]s\npcs constraint location fence-%[1]s avoids %[1]s\n", n)
	}
	if _, err := n1.Shell(ctx, script); err != nil {
		t.Fatal(err)
	}
}
