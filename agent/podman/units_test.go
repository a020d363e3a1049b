package podman

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containers/podman/v5/libpod/define"
)

func TestBootStarters(t *testing.T) {
	root := t.TempDir()
	unit := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := func(link, target string) {
		t.Helper()
		link = filepath.Join(root, link)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	unit("etc/systemd/system/web.service", "[Service]\nExecStart=/usr/bin/podman start -a web\n")
	want("etc/systemd/system/multi-user.target.wants/web.service", "/etc/systemd/system/web.service")
	unit("run/systemd/generator/db.service", "[Service]\nExecStart=/usr/bin/podman run --name=db --rm img\n")
	want("run/systemd/generator/default.target.requires/db.service", "../db.service")
	unit("etc/systemd/system/off.service", "[Service]\nExecStart=/usr/bin/podman start off\n") // not enabled
	unit("etc/systemd/system/log.service", "[Service]\nExecStart=/usr/bin/podman logs web\n")  // does not start it
	want("etc/systemd/system/multi-user.target.wants/log.service", "/etc/systemd/system/log.service")
	want("etc/systemd/system/multi-user.target.wants/gone.service", "/etc/systemd/system/gone.service")

	var got []string
	for _, p := range bootStarters(root, []string{"web", "db", "off"}) {
		if p.Warning || p.Next == "" {
			t.Errorf("too mild: %+v", p)
		}
		got = append(got, p.Container)
	}
	if !slices.Equal(got, []string{"db", "web"}) {
		t.Errorf("found %q", got)
	}
}

func TestRecordIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	r := record{path: path}
	if _, ok, err := r.container("web"); ok || err != nil {
		t.Errorf("an empty record knows web (%v)", err)
	}
	if err := errors.Join(r.setContainer("web", entry{ID: "1", Hash: "h"}), r.setNetwork("net", "n")); err != nil {
		t.Fatal(err)
	}
	r = record{path: path}
	if e, ok, err := r.container("web"); !ok || err != nil || e != (entry{ID: "1", Hash: "h"}) {
		t.Errorf("after a restart: %+v %v %v", e, ok, err)
	}
	if h, ok, _ := r.network("net"); !ok || h != "n" {
		t.Errorf("network: %q %v", h, ok)
	}
	for _, damaged := range []string{"", "{", `{"version":9}`} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		r = record{path: path}
		if _, _, err := r.container("web"); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q was read: %v", damaged, err)
		}
		if err := r.setContainer("web", entry{}); err == nil {
			t.Errorf("%q was overwritten", damaged)
		}
	}
}

func TestLookDifferences(t *testing.T) {
	here := json.RawMessage(`{"A":{"B":1,"C":[]},"D":"x","E":null}`)
	there := json.RawMessage(`{"A":{"B":2},"D":"x","F":{}}`)
	got := lookDifferences(here, there)
	if !slices.Equal(got, []string{"A.B: 1 here, 2 on the active"}) {
		t.Errorf("%q", got)
	}
}

// Whether a container was started yet must not show.
func TestLooksOfAContainerStayTheSame(t *testing.T) {
	created := in(inspected("podman", "run", "--net", "front", "img"), "front")
	started := in(inspected("podman", "run", "--net", "front", "img"), "front")
	started.ID = strings.Repeat("ef", 32)
	started.NetworkSettings.Networks["front"].Aliases = []string{"efefefefefef", "web", "other-front"}
	started.NetworkSettings.Networks["front"].IPAddress = "192.0.2.7"
	started.Config.Hostname, started.Config.Env = "efefefefefef", []string{"HOME=/root", "HOSTNAME=efefefefefef"}
	started.Config.Annotations = map[string]string{"io.container.manager": "libpod"}
	started.Config.Labels = map[string]string{}
	started.State = &define.InspectContainerState{Status: "running", Pid: 7}
	a, err := looksOf(created)
	if err != nil {
		t.Fatal(err)
	}
	b, err := looksOf(started)
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("looks (%v):\n%s\n%s", err, a, b)
	}
	other := in(inspected("podman", "run", "--net", "front", "img"), "front", "back")
	c, err := looksOf(other)
	if err != nil || len(lookDifferences(c, a)) == 0 {
		t.Errorf("another network does not show: %s (%v)", c, err)
	}
}

// A container that was made by digest shows another name where its image goes by its ID.
func TestImagesByDigest(t *testing.T) {
	of := func(name string) (*define.InspectContainerData, json.RawMessage) {
		d := in(inspected("podman", "create", "img"))
		d.Image, d.ImageName, d.Config.Image = "sha256:"+strings.Repeat("ab", 32), name, name
		looks, err := looksOf(d)
		if err != nil {
			t.Fatal(err)
		}
		return d, looks
	}
	active, digest := of("localhost/app@sha256:" + strings.Repeat("0d", 32))
	if got := carriedName(active); got != strings.Repeat("ab", 32) {
		t.Errorf("it is carried as %s", got)
	}
	_, tagged := of("localhost/app:1")
	_, other := of("localhost/app:2")
	if diffs := lookDifferences(tagged, digest); len(diffs) > 0 {
		t.Errorf("by digest on the active: %q", diffs)
	}
	if diffs := lookDifferences(tagged, other); len(diffs) != 2 {
		t.Errorf("another name: %q", diffs)
	}
	plain, err := nameless(other)
	if diffs := lookDifferences(tagged, plain); err != nil || len(diffs) > 0 {
		t.Errorf("a played one: %q, %v", diffs, err)
	}
}

// A short alias may be what the container's ID happens to begin with.
func TestAliasesThatPeopleChose(t *testing.T) {
	d := in(inspected("podman", "run", "--net", "front", "img"), "front")
	d.ID, d.Name = strings.Repeat("b0", 32), "web"
	d.NetworkSettings.Networks["front"].Aliases = []string{"b0b0b0b0b0b0", "web", "b", "a"}
	if got := aliases(d, "front"); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("aliases %q", got)
	}
}

func TestNetworksAreComparedByWhatContainersSee(t *testing.T) {
	def := func(config string) NetworkDef { return NetworkDef{Name: "n", Driver: "bridge", Config: []byte(config)} }
	a := def(`{"name":"n","network_interface":"podman1","subnets":[{"subnet":"192.0.2.0/24"}]}`)
	cases := []struct {
		name string
		b    NetworkDef
		same bool
	}{
		{"bridge chosen by Podman", def(`{"name":"n","network_interface":"podman7","subnets":[{"subnet":"192.0.2.0/24"}]}`), true},
		{"bridge chosen by a person", def(`{"name":"n","network_interface":"br-web","subnets":[{"subnet":"192.0.2.0/24"}]}`), false},
		{"subnet", def(`{"name":"n","network_interface":"podman1","subnets":[{"subnet":"198.51.100.0/24"}]}`), false},
		{"internal", def(`{"name":"n","network_interface":"podman1","internal":true,"subnets":[{"subnet":"192.0.2.0/24"}]}`), false},
	}
	for _, tc := range cases {
		if a.same(tc.b) != tc.same {
			t.Errorf("%s: same = %v", tc.name, !tc.same)
		}
	}
}

func TestGraceLeavesRoomForTheKill(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if g := boundGrace(ctx, time.Minute); g > 10*time.Second-killMargin {
		t.Errorf("grace %v of a deadline of 10 s", g)
	}
	if g := boundGrace(ctx, 3*time.Second); g != 3*time.Second {
		t.Errorf("grace %v", g)
	}
	late, cancel2 := context.WithTimeout(t.Context(), time.Second)
	defer cancel2()
	if g := boundGrace(late, time.Minute); g != 0 {
		t.Errorf("grace %v where there is no time", g)
	}
}

func TestSplitName(t *testing.T) {
	for name, want := range map[string][2]string{
		"a": {"a", "latest"}, "a:1": {"a", "1"}, "h:5000/a": {"h:5000/a", "latest"}, "h:5000/a/b:2": {"h:5000/a/b", "2"},
	} {
		if repo, tag := splitName(name); repo != want[0] || tag != want[1] {
			t.Errorf("%s: %s %s", name, repo, tag)
		}
	}
}

// dockerArchive makes what Podman exports: layers under their hashes, the
// configuration, links of the old format, the manifest last.
func dockerArchive(t testing.TB, config string, layers ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	put := func(name, content string) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	sum := func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }
	var names []string
	for _, l := range layers {
		put(sum(l)+".tar", l)
		names = append(names, sum(l)+".tar")
		if err := w.WriteHeader(&tar.Header{Name: "old/layer.tar", Linkname: "../" + sum(l) + ".tar", Typeflag: tar.TypeSymlink}); err != nil {
			t.Fatal(err)
		}
	}
	put(sum(config)+".json", config)
	raw, err := json.Marshal([]map[string]any{{"Config": sum(config) + ".json", "RepoTags": nil, "Layers": names}})
	if err != nil {
		t.Fatal(err)
	}
	put("manifest.json", string(raw))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestRelayoutKeepsTheImage(t *testing.T) {
	config := `{"config":{"Healthcheck":{}}}`
	var out bytes.Buffer
	if err := relayout(bytes.NewReader(dockerArchive(t, config, "layer one", "layer two", "layer one")), &out); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(r)
		if _, twice := files[h.Name]; twice {
			t.Errorf("%s twice", h.Name)
		}
		files[h.Name] = string(raw)
	}
	blob := func(digest string) string {
		t.Helper()
		content, ok := files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")]
		sum := sha256.Sum256([]byte(content))
		if !ok || digest != "sha256:"+hex.EncodeToString(sum[:]) {
			t.Errorf("blob %s is missing or wrong", digest)
		}
		return content
	}
	var index struct{ Manifests []ociDescriptor }
	if err := json.Unmarshal([]byte(files["index.json"]), &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("index %s: %v", files["index.json"], err)
	}
	var m struct {
		MediaType string
		Config    ociDescriptor
		Layers    []ociDescriptor
	}
	if err := json.Unmarshal([]byte(blob(index.Manifests[0].Digest)), &m); err != nil || m.MediaType != dockerManifest {
		t.Fatalf("manifest %+v: %v", m, err)
	}
	if blob(m.Config.Digest) != config || len(m.Layers) != 3 || blob(m.Layers[1].Digest) != "layer two" || m.Layers[1].Size != 9 {
		t.Errorf("manifest %+v", m)
	}
	if files["oci-layout"] == "" {
		t.Error("no oci-layout")
	}
}

func TestRelayoutRefusesDamage(t *testing.T) {
	good := dockerArchive(t, "{}", "some layer of the image")
	bad := bytes.Replace(good, []byte("some layer"), []byte("same layer"), 1)
	for name, raw := range map[string][]byte{"damaged layer": bad, "cut short": good[:len(good)/2], "empty": nil} {
		if err := relayout(bytes.NewReader(raw), io.Discard); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzRelayout(f *testing.F) {
	f.Add(dockerArchive(f, "{}", "a", "b"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var out bytes.Buffer
		if relayout(bytes.NewReader(raw), &out) != nil {
			return
		}
		if _, err := tar.NewReader(&out).Next(); err != nil {
			t.Errorf("the result is no archive: %v", err)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"containers":{"a":{"id":"1","hash":"2"}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if data, err := parseRecord(raw); err == nil && (data.Containers == nil || data.Networks == nil) {
			t.Error("a record without maps")
		}
	})
}
