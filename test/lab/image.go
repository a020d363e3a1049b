package lab

import (
	"context"
	_ "embed" // recipes and the ledger's source
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// imageVersion is part of the cache key: count it up when what this file builds changes.
const imageVersion = "1"

//go:embed ledger/main.go
var ledgerSource []byte

//go:embed postgres.sh
var postgresRecipe []byte

//go:embed redis.sh
var redisRecipe []byte

// images are the recipes by name, and what besides imageVersion they depend on.
var images = map[string]struct {
	build func(ctx context.Context, b imageBuild) error
	from  [][]byte
}{
	"busybox":  {buildBusybox, [][]byte{rootRecipe}},
	"registry": {buildRegistry, [][]byte{rootRecipe}},
	"ledger":   {buildLedger, [][]byte{rootRecipe, ledgerSource}},
	"postgres": {buildPostgres, [][]byte{postgresRecipe}},
	"redis":    {buildRedis, [][]byte{redisRecipe}},
}

// imageBuild is what a recipe works with.
type imageBuild struct {
	root string // the nodes' root file system, where most content is from
	tmp  string // directory for layers, removed afterwards
	dst  string // the archive to make
	tag  string
}

// ImageNames lists the images that Image can build:
//
//	busybox   a shell and its tools; runs `sleep` until it is stopped
//	registry  Debian's docker-registry on :5000, data in /var/lib/registry
//	ledger    counts writes (test/lab/ledger) on :8080, data in /data
//	postgres  Debian's PostgreSQL on :5432, data in /var/lib/postgresql/data
//	redis     Debian's Redis on :6379, to be reached from inside of its container only, data in /data
func ImageNames() []string { return slices.Sorted(maps.Keys(images)) }

// Image returns a docker-archive of the image called name, tagged localhost/NAME:1, building it from
// Debian packages if the cache has none. Nothing is pulled and no container engine is needed.
func Image(ctx context.Context, name string) (string, error) {
	recipe, ok := images[name]
	if !ok {
		return "", fmt.Errorf("no image %q: there are %s", name, strings.Join(ImageNames(), ", "))
	}
	root, err := Root(ctx, nil)
	if err != nil {
		return "", err
	}
	key := shortHash(append([][]byte{[]byte(imageVersion)}, recipe.from...)...)
	path := filepath.Join(cacheDir, "image-"+name+"-"+key+".tar")
	err = cached(ctx, path, func(dst string) error {
		tmp, err := os.MkdirTemp(cacheDir, "layers-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		return recipe.build(ctx, imageBuild{root: root, tmp: tmp, dst: dst, tag: "localhost/" + name + ":1"})
	})
	if err != nil {
		return "", fmt.Errorf("build image %s: %w", name, err)
	}
	return path, nil
}

// LoadImage loads an image into the node's Podman as localhost/NAME:1, so that a power cut does not lose it.
func (n *Node) LoadImage(ctx context.Context, name string) error {
	path, err := Image(ctx, name)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := n.exec(ctx, f, "podman", "load", "-q"); err != nil {
		return fmt.Errorf("load image %s: %w", name, err)
	}
	return n.Sync(ctx)
}

// busyboxLayer is the bottom layer of all small images, so that they share it.
func busyboxLayer(ctx context.Context, b imageBuild) (string, error) {
	bin := filepath.Join(b.root, "usr/bin/busybox")
	list, err := output(ctx, "", bin, "--list")
	if err != nil {
		return "", err
	}
	l := layer{
		"bin/busybox": {mode: 0o755, from: bin},
		"etc/passwd":  {mode: 0o644, data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")},
		"etc/group":   {mode: 0o644, data: []byte("root:x:0:\nnogroup:x:65534:\n")},
		"root":        {mode: fs.ModeDir | 0o700},
		"tmp":         {mode: fs.ModeDir | fs.ModeSticky | 0o777},
		"usr/bin/env": {link: "/bin/busybox"},
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			l["bin/"+applet] = layerFile{link: "busybox"}
		}
	}
	dst := filepath.Join(b.tmp, "busybox.tar")
	return dst, writeLayer(dst, l)
}

// onBusybox makes an image of the busybox layer and one more.
func onBusybox(ctx context.Context, b imageBuild, l layer, cfg imageConfig) error {
	base, err := busyboxLayer(ctx, b)
	if err != nil {
		return err
	}
	top := filepath.Join(b.tmp, "top.tar")
	if err := writeLayer(top, l); err != nil {
		return err
	}
	cfg.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
	return writeArchive(b.dst, b.tag, cfg, base, top)
}

func buildBusybox(ctx context.Context, b imageBuild) error {
	base, err := busyboxLayer(ctx, b)
	if err != nil {
		return err
	}
	return writeArchive(b.dst, b.tag, imageConfig{
		Cmd: []string{"sleep", "2147483647"}, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}, StopSignal: "SIGKILL",
	}, base)
}

const registryConfig = `version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: /var/lib/registry}
  delete: {enabled: true}
http: {addr: ":5000", secret: lab}
`

func buildRegistry(ctx context.Context, b imageBuild) error {
	const bin = "usr/bin/docker-registry"
	l := layer{
		"usr/bin/registry": {mode: 0o755, from: filepath.Join(b.root, bin)},
		"etc/registry.yml": {mode: 0o644, data: []byte(registryConfig)},
		"var/lib/registry": {mode: fs.ModeDir | 0o755},
	}
	libs, err := output(ctx, "", "chroot", b.root, "ldd", "/"+bin)
	if err != nil {
		return err
	}
	for _, lib := range strings.Fields(string(libs)) {
		if strings.HasPrefix(lib, "/") {
			// os.Root resolves the links of the tree inside the tree.
			data, err := readBelow(b.root, lib)
			if err != nil {
				return err
			}
			l[strings.TrimPrefix(lib, "/")] = layerFile{mode: 0o755, data: data}
		}
	}
	return onBusybox(ctx, b, l, imageConfig{
		Entrypoint: []string{"/usr/bin/registry"}, Cmd: []string{"serve", "/etc/registry.yml"},
		Ports: map[string]struct{}{"5000/tcp": {}},
	})
}

func readBelow(root, name string) ([]byte, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.ReadFile(strings.TrimPrefix(name, "/"))
}

func buildLedger(ctx context.Context, b imageBuild) error {
	// Built from the embedded source in a module of its own: the lab need not run in the checkout.
	src := filepath.Join(b.tmp, "src")
	if err := writeFile(filepath.Join(src, "main.go"), ledgerSource, 0o644); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(src, "go.mod"), []byte("module ledger\n\ngo 1.22\n"), 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", "ledger", ".")
	cmd.Dir = src
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOTOOLCHAIN=local", "GOWORK=off", "GOPROXY=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	return onBusybox(ctx, b, layer{
		"usr/bin/ledger": {mode: 0o755, from: filepath.Join(src, "ledger")},
		"data":           {mode: fs.ModeDir | 0o755},
	}, imageConfig{Entrypoint: []string{"/usr/bin/ledger"}, Ports: map[string]struct{}{"8080/tcp": {}}})
}

func buildPostgres(ctx context.Context, b imageBuild) error {
	tar := filepath.Join(b.tmp, "postgres.tar")
	if err := runRecipe(ctx, postgresRecipe, tar); err != nil {
		return err
	}
	return writeArchive(b.dst, b.tag, imageConfig{
		Entrypoint: []string{"/usr/bin/tini", "--", "/usr/local/bin/postgres-entrypoint"},
		Env:        []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
		Ports:      map[string]struct{}{"5432/tcp": {}}, StopSignal: "SIGINT",
	}, tar)
}

func buildRedis(ctx context.Context, b imageBuild) error {
	tar := filepath.Join(b.tmp, "redis.tar")
	if err := runRecipe(ctx, redisRecipe, tar); err != nil {
		return err
	}
	return writeArchive(b.dst, b.tag, imageConfig{
		Entrypoint: []string{"/usr/bin/redis-server", "--dir", "/data"}, Env: []string{"PATH=/usr/bin"},
	}, tar)
}
