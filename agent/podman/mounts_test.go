package podman

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containers/podman/v5/pkg/domain/entities/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	nettypes "go.podman.io/common/libnetwork/types"
)

func TestPlaceOfAVolume(t *testing.T) {
	local := func(kv ...string) VolumeDef {
		d := VolumeDef{Name: "v", Driver: "local", Options: map[string]string{}}
		for i := 0; i < len(kv); i += 2 {
			d.Options[kv[i]] = kv[i+1]
		}
		return d
	}
	for name, tc := range map[string]struct {
		def     VolumeDef
		want    place
		refused string // in the problem that stops it; "": none
	}{
		"plain":       {local(), onNode, ""},
		"owned":       {local("o", "uid=5,gid=6"), onNode, ""},
		"size":        {local("o", "size=10m"), onNode, ""},
		"tmpfs":       {local("type", "tmpfs", "device", "tmpfs", "o", "size=2M"), inMemory, ""},
		"NFS":         {local("type", "nfs", "device", ":/x", "o", "addr=192.0.2.9,vers=4"), onNetwork, ""},
		"CIFS":        {local("type", "cifs", "device", "//192.0.2.9/x", "o", "username=u,password=p"), onNetwork, ""},
		"bind":        {local("type", "none", "device", "/srv/x", "o", "bind"), onBind, ""},
		"rbind":       {local("device", "/srv/x", "o", "ro,rbind"), onBind, ""},
		"disk":        {local("type", "ext4", "device", "/dev/sdb1"), onDevice, "/dev/sdb1"},
		"overlay":     {local("type", "overlay", "device", "overlay", "o", "lowerdir=/a"), elsewhere, "overlay"},
		"plugin":      {VolumeDef{Name: "v", Driver: "rexray"}, elsewhere, "rexray"},
		"looks bound": {local("o", "uid=5,bindings"), onNode, ""},
	} {
		if got := tc.def.place(); got != tc.want {
			t.Errorf("%s: place %d, want %d", name, got, tc.want)
		}
		problems := tc.def.check("/data", false)
		if fatal(problems) != (tc.refused != "") || tc.refused != "" && !strings.Contains(problems[0].String(), tc.refused) {
			t.Errorf("%s: %v", name, problems)
		}
	}
	if !fatal(local("type", "nfs", "device", ":/x").check("/data", true)) {
		t.Error("the content of an NFS volume is to be replicated, and it is accepted")
	}
	if p := (VolumeDef{Driver: "local", Anonymous: true}).check("/data", false); fatal(p) || len(p) != 1 || !strings.Contains(p[0].What, "/data") {
		t.Errorf("an anonymous volume: %v", p)
	}
}

func TestBinds(t *testing.T) {
	root := t.TempDir()
	c := New(Options{Root: root})
	for _, dir := range []string{"srv/www/sub", "srv/data", "etc/app"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "srv/file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, refused := range map[string]string{
		"/srv/www": "", "/srv/data/": "", "/": "the node's own", "/etc/app": "the node's own", "/srv": "the node's own", "/var/lib/containers/x": "the node's own",
		"/srv/../etc/app": "the node's own", "/run/podman/podman.sock": "the node's own", "/srv/file": "not a directory", "/srv/none": "does not exist",
	} {
		got := c.checkBinds([]bind{{path: path, target: "/x", replicate: true}})
		if fatal(got) != (refused != "") || refused != "" && !strings.Contains(got[0].What, refused) {
			t.Errorf("replicate %s: %v", path, got)
		}
		if got := c.checkBinds([]bind{{path: path, target: "/x"}}); len(got) != 1 || fatal(got) || !strings.Contains(got[0].What, path) {
			t.Errorf("list %s: %v", path, got)
		}
	}
	defs := bindDefs([]bind{{path: "/srv/www/", replicate: true}, {path: "/srv/www"}, {path: "/srv/data", volume: "named", replicate: true}, {path: "/srv/one"}})
	want := []BindDef{{Path: "/srv/data", Volume: "named"}, {Path: "/srv/one"}, {Path: "/srv/www", Volume: bindVolume("/srv/www")}}
	if !slices.Equal(defs, want) {
		t.Errorf("binds %+v", defs)
	}
	if a, b := bindVolume("/srv/a-b"), bindVolume("/srv/a/b"); a == b || !strings.HasPrefix(a, "bind-srv-a-b-") {
		t.Errorf("names %s and %s", a, b)
	}
	if p := overlapping([]BindDef{{"/srv/www", "a"}, {"/srv/www/sub", "b"}, {"/srv/www2", "c"}, {"/srv/www/list", ""}}); len(p) != 1 {
		t.Errorf("overlapping: %v", p)
	}
	if _, err := c.ensureBind(BindDef{Path: "/srv/none"}); err == nil || !strings.Contains(err.Error(), "/srv/none") {
		t.Errorf("a listed directory that does not exist: %v", err)
	}
	if made, err := c.ensureBind(BindDef{Path: "/srv/none", Volume: "x"}); !made || err != nil {
		t.Errorf("a replicated one: %v", err)
	}
}

func TestBindsOfASpecification(t *testing.T) {
	got := bindsOf([]specs.Mount{
		{Type: "bind", Source: "/etc/localtime", Options: []string{"ro"}},
		{Type: "bind", Source: "/etc/timezone"},
		{Type: "tmpfs", Source: "tmpfs"},
		{Type: "bind", Source: "/srv/x", Options: []string{"ro"}},
	}, true)
	if len(got) != 2 || got[0].path != "/etc/timezone" || got[1].path != "/srv/x" || !got[1].replicate {
		t.Errorf("%+v", got)
	}
}

func TestTreesOfADefinition(t *testing.T) {
	d := Definition{
		Volumes: []VolumeDef{
			{Name: "b"},
			{Name: "a", Driver: "local"},
			{Name: "n", Driver: "local", Options: map[string]string{"type": "nfs"}},
			{Name: "m", Driver: "local", Options: map[string]string{"device": "/srv/m", "o": "bind"}},
		},
		Binds: []BindDef{{"/srv/m", "m"}, {"/srv/listed", ""}},
	}
	if got := d.trees(nil); !slices.Equal(got, []string{"a", "b", "m"}) {
		t.Errorf("all: %q", got)
	}
	if got := d.trees([]string{"b"}); !slices.Equal(got, []string{"b", "m"}) {
		t.Errorf("named: %q", got)
	}
	old, err := ParseDefinition([]byte(`{"version":1,"containers":[],"volumes":[{"name":"x","driver":"local"}],"images":[]}`))
	if err != nil || !slices.Equal(old.Trees, []string{"x"}) {
		t.Errorf("a definition of version 1: %+v, %v", old, err)
	}
}

func TestParentOfANetwork(t *testing.T) {
	def := func(n nettypes.Network) NetworkDef {
		d, err := networkDef(n)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for name, tc := range map[string]struct {
		net  nettypes.Network
		want string // in the error
	}{
		"bridge":         {nettypes.Network{Name: "n", Driver: "bridge", NetworkInterface: "no-such-bridge"}, ""},
		"macvlan":        {nettypes.Network{Name: "n", Driver: "macvlan", NetworkInterface: "lo"}, ""},
		"no parent":      {nettypes.Network{Name: "n", Driver: "macvlan"}, ""},
		"missing parent": {nettypes.Network{Name: "front", Driver: "macvlan", NetworkInterface: "no-such0"}, "no-such0"},
		"ipvlan":         {nettypes.Network{Name: "front", Driver: "ipvlan", NetworkInterface: "no-such0"}, "front"},
	} {
		err := def(tc.net).checkParent()
		if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p := checkNetwork(nettypes.Network{Name: "n", Driver: "macvlan", IPAMOptions: map[string]string{"driver": "dhcp"}}); len(p) != 1 || fatal(p) {
		t.Errorf("DHCP: %v", p)
	}
	if p := checkNetwork(nettypes.Network{Name: "n", Driver: "sriov"}); !fatal(p) {
		t.Errorf("an unknown driver: %v", p)
	}
}

// Bytes that are no text do not survive Podman's JSON: they are read where it keeps them.
func TestSecretOfBytes(t *testing.T) {
	dir := t.TempDir()
	want := []byte("a\x00\xff")
	raw, err := json.Marshal(map[string]string{"id1": base64.StdEncoding.EncodeToString(want)})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secretsdata.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	info := &types.SecretInfoReport{ID: "id1", SecretData: "a\x00\uFFFD"}
	info.Spec.Name, info.Spec.Labels = "s", map[string]string{}
	info.Spec.Driver.Options = map[string]string{"path": dir}
	def, err := secretDef(info)
	if err != nil || string(def.Data) != string(want) {
		t.Errorf("read %q, %v", def.Data, err)
	}
	info.ID = "id2"
	if _, err := secretDef(info); err == nil {
		t.Error("a secret that is not there was read")
	}
	info.SecretData = "text"
	text, err := secretDef(info)
	if err != nil || string(text.Data) != "text" || text.hash() == def.hash() {
		t.Errorf("read %q, %v", text.Data, err)
	}
	if text.hash() != (SecretDef{Name: "s", Data: []byte("text")}).hash() {
		t.Error("no labels and an empty set of labels are not the same")
	}
}
