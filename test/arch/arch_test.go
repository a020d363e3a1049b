// Package arch holds the house to its plan: who may import whom, and that every
// package says what it is for.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/understudy-ha/understudy"

// pkg is what `go list` says of a package.
type pkg struct {
	ImportPath, Dir, Name string
	Imports, Deps         []string
}

// list asks `go list` once: it takes a second.
var list = sync.OnceValues(func() ([]pkg, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Imports,Deps", "./...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("go list: %s", exit.Stderr)
		}
		return nil, err
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		p.ImportPath = strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		for i, imp := range p.Imports {
			p.Imports[i] = strings.TrimPrefix(imp, module+"/")
		}
		all = append(all, p)
	}
})

func load(t *testing.T) []pkg {
	t.Helper()
	all, err := list()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 15 {
		t.Fatalf("go list found %d packages: the test looks in the wrong place", len(all))
	}
	return all
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// only says who alone may import a module.
var only = map[string][]string{
	"github.com/vishvananda/netlink":   {"agent/vip"},
	"github.com/containers/podman/v5":  {"agent/podman"},
	"github.com/hashicorp/memberlist":  {"agent/gossip"},
	"github.com/prometheus":            {"agent/metrics"},
	"github.com/spf13/cobra":           {"cmd", "test"},
	"github.com/vbauerster/mpb/v8":     {"cmd"},
	"github.com/pelletier/go-toml/v2":  {"agent/config"},
	"github.com/fxamacker/cbor/v2":     {"replication"},
	"golang.org/x/crypto/ssh":          {"replication/wire", "cmd/understudy", "test"},
	"github.com/pkg/sftp":              {"replication/wire"},
	"github.com/coreos/go-systemd/v22": {"cmd/understudy", "agent/podman"}, // readiness; quadlet units
}

func TestOnlyOneImporter(t *testing.T) {
	for _, p := range load(t) {
		for _, imp := range p.Imports {
			for mod, allowed := range only {
				if !below(imp, mod) {
					continue
				}
				ok := false
				for _, a := range allowed {
					ok = ok || below(p.ImportPath, a)
				}
				if !ok {
					t.Errorf("%s imports %s: only %v may", p.ImportPath, imp, allowed)
				}
			}
		}
	}
}

// TestDirection: cmd → agent, ocf; agent → its parts and replication; nothing
// the other way, and siblings do not know each other.
func TestDirection(t *testing.T) {
	for _, p := range load(t) {
		for _, imp := range p.Imports {
			if why := forbidden(p.ImportPath, imp); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imp, why)
			}
		}
	}
}

func forbidden(from, to string) string {
	switch {
	case below(to, "cmd"):
		return "commands are imported by nobody"
	case below(to, "test") && !below(from, "test"):
		return "tests are imported by tests"
	case below(from, "ocf") && (below(to, "agent") || below(to, "replication")) && to != "agent/api":
		return "the resource agent knows agent/api only"
	case below(from, "replication") && (below(to, "agent") || below(to, "ocf")):
		return "replication does not know who uses it"
	case below(from, "agent") && (below(to, "ocf") || below(to, "cmd")):
		return "the agent does not know its callers"
	case from == "agent/api" && (below(to, "agent") || below(to, "replication")):
		return "agent/api is a leaf"
	case strings.HasPrefix(from, "agent/") && strings.HasPrefix(to, "agent/") && !siblings(from, to):
		return "siblings meet through interfaces wired in package agent"
	}
	return ""
}

// siblings are the few that may know each other.
func siblings(from, to string) bool {
	return to == "agent/api" || below(to, from) || below(from, to) || (from == "agent/drill" && to == "agent/probe")
}

// TestResourceAgentIsThin: it is executed every few seconds.
func TestResourceAgentIsThin(t *testing.T) {
	for _, p := range load(t) {
		if p.ImportPath != "cmd/understudy-ocf" {
			continue
		}
		for _, d := range p.Deps {
			if strings.Contains(strings.Split(d, "/")[0], ".") && !strings.HasPrefix(d, module) {
				t.Errorf("the resource agent links %s", d)
			}
		}
		return
	}
	t.Error("cmd/understudy-ocf was not found")
}

// TestPackageDocs: every package says what it is for, once.
func TestPackageDocs(t *testing.T) {
	for _, p := range load(t) {
		files, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		docs := 0
		for _, f := range files {
			tree, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if tree.Doc != nil && strings.TrimSuffix(tree.Name.Name, "_test") == p.Name {
				docs++
			}
		}
		if docs != 1 {
			t.Errorf("%s has %d package comments, not one", p.ImportPath, docs)
		}
	}
}

// TestNamesNoWorkplace: the tree builds and reads the same wherever it lies. No
// file outside dotfolders names where, or with what, somebody worked on it.
func TestNamesNoWorkplace(t *testing.T) {
	root := filepath.Join("..", "..")
	// Put together here, or this file would name them.
	places := []string{"/" + "work/", "farm" + "-", "/tmp/" + "ocftools"}
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || path == filepath.Join(root, "build")) {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen++
		for n, line := range strings.Split(string(text), "\n") {
			// The overlay file system's own directory, in the lab's.
			line = strings.ReplaceAll(line, "work/"+"work/incompat", "")
			for _, place := range places {
				if strings.Contains(line, place) {
					t.Errorf("%s:%d names %s", path, n+1, place)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 100 {
		t.Errorf("%d files: the test looks in the wrong place", seen)
	}
}
