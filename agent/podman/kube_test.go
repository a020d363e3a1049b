package podman

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containers/podman/v5/libpod/define"
)

const shopYAML = `# A comment first.
apiVersion: v1
kind: Secret
metadata: {name: inside}
stringData: {a: b}
---
apiVersion: v1
kind: Pod
metadata: {name: shop}
spec:
  containers:
  - name: web
    image: localhost/app:1
    imagePullPolicy: Always
    command: ["sh", "-c", "echo '---' ; sleep 5"]
    ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 53, hostPort: 53, protocol: UDP, hostIP: 192.0.2.1}, {containerPort: 9}]
    env:
    - {name: A, valueFrom: {secretKeyRef: {name: inside, key: a}}}
    - {name: B, valueFrom: {secretKeyRef: {name: outside, key: b}}}
    envFrom: [{secretRef: {name: all}}]
  volumes: [{name: s, secret: {secretName: files}}]
---
---
kind: Deployment
metadata: {name: api}
spec: {template: {spec: {containers: [{name: api, image: 'x@sha256:0d'}]}}}
`

// commandOf is what the shell of the first pod's first container is given.
func commandOf(s *kubeSource) any {
	for _, spec := range s.podSpecs() {
		return spec["containers"].([]any)[0].(map[string]any)["command"].([]any)[2]
	}
	return nil
}

func TestReadKube(t *testing.T) {
	s, err := readKube("/shop.yaml", []byte(shopYAML))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.pods, []string{"shop", "api-pod"}) || len(s.docs) != 3 {
		t.Errorf("pods %q of %d documents", s.pods, len(s.docs))
	}
	if got := s.secrets(); !slices.Equal(got, []string{"all", "files", "outside"}) {
		t.Errorf("secrets %q", got)
	}
	if got := s.hostPorts(); !slices.Equal(got, []string{"0.0.0.0:8080:80/tcp", "192.0.2.1:53:53/udp"}) {
		t.Errorf("ports %q", got)
	}
	if p := s.check(); len(p) > 0 {
		t.Errorf("problems %v", p)
	}
	local, err := s.local(map[string]string{"shop-web": "1d", "api-pod-api": "2d"})
	if err != nil || strings.Contains(string(local), "Always") || strings.Count(string(local), "imagePullPolicy: Never") != 2 {
		t.Errorf("for another node:\n%s (%v)", local, err)
	}
	if text := string(local); !strings.Contains(text, "image: 2d") || strings.Contains(text, "1d") || strings.Contains(text, "@") {
		t.Errorf("only what is named by digest goes by its ID:\n%s", text)
	}
	again, err := readKube("/shop.yaml", local)
	if err != nil || !slices.Equal(again.pods, s.pods) || textAt(again.docs[1], "spec", "containers") != "" ||
		commandOf(again) != "echo '---' ; sleep 5" {
		t.Errorf("read again: %+v, %v", again, err)
	}
}

func TestKubeRefusedByName(t *testing.T) {
	for name, tc := range map[string]struct{ yaml, want string }{
		"job":            {"kind: Job\nmetadata: {name: j}\n---\nkind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n", "Job"},
		"init container": {"kind: Pod\nmetadata: {name: p}\nspec: {initContainers: [{name: i}]}\n", "init container"},
		"nothing":        {"kind: ConfigMap\nmetadata: {name: c}\n", "no pod"},
	} {
		s, err := readKube("/x.yaml", []byte(tc.yaml))
		if err != nil {
			t.Fatal(err)
		}
		if p := s.check(); !fatal(p) || !strings.Contains(p[0].String(), tc.want) || !strings.Contains(p[0].String(), "/x.yaml") {
			t.Errorf("%s: %v", name, p)
		}
	}
	if _, err := readKube("/x.yaml", []byte("kind: [")); err == nil {
		t.Error("what is no YAML was read")
	}
}

func TestFlagsOfAPlayedPod(t *testing.T) {
	s, err := readKube("/shop.yaml", []byte(shopYAML))
	if err != nil {
		t.Fatal(err)
	}
	infra := in(inspected(), kubeNetwork)
	infra.HostConfig.NetworkMode = "bridge"
	infra.HostConfig.PortBindings = map[string][]define.InspectHostPort{
		"80/tcp": {{HostIP: "0.0.0.0", HostPort: "8080"}}, "53/udp": {{HostIP: "192.0.2.1", HostPort: "53"}},
	}
	var plain KubeDef
	s.flags(&plain, infra, inspected())
	if len(plain.Networks)+len(plain.Publish) > 0 || plain.LogDriver != "k8s-file" {
		t.Errorf("played without flags: %+v", plain)
	}
	infra = in(infra, "front", "back")
	infra.HostConfig.PortBindings["80/tcp"][0].HostPort = "81"
	var flags KubeDef
	s.flags(&flags, infra, nil)
	if !slices.Equal(flags.Networks, []string{"back", "front"}) || !slices.Contains(flags.Publish, "0.0.0.0:81:80/tcp") || len(flags.Publish) != 2 {
		t.Errorf("played with --network and --publish: %+v", flags)
	}
	infra.HostConfig.NetworkMode = "host"
	s.flags(&flags, infra, nil)
	if !slices.Equal(flags.Networks, []string{"host"}) {
		t.Errorf("played with --network host: %+v", flags)
	}
}

// The YAML of pods is what they were made of, whatever became of the file.
func TestSourceOfYAML(t *testing.T) {
	root := t.TempDir()
	c := New(Options{Root: root})
	s, err := c.kubeSource(t.Context(), "/shop.yaml")
	if s != nil || err != nil {
		t.Errorf("a file that is not here: %+v, %v", s, err)
	}
	if err := os.WriteFile(filepath.Join(root, "shop.yaml"), []byte(shopYAML), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = c.kubeSource(t.Context(), "/shop.yaml"); err != nil || string(s.yaml) != shopYAML || s.changed {
		t.Errorf("a file: %+v, %v", s, err)
	}
	// No pods: nobody is asked about them.
	if err := c.record.setKube("/shop.yaml", kubeEntry{YAML: []byte("kind: Pod\nmetadata: {name: old}\n"), Pods: map[string]string{}}); err != nil {
		t.Fatal(err)
	}
	if s, err = c.kubeSource(t.Context(), "/shop.yaml"); err != nil || !slices.Equal(s.pods, []string{"old"}) || !s.changed {
		t.Errorf("a file that changed since: %+v, %v", s, err)
	}
	if p := s.check(); len(p) != 1 || fatal(p) || !strings.Contains(p[0].What, "changed") {
		t.Errorf("problems %v", p)
	}
}

func FuzzReadKube(f *testing.F) {
	f.Add([]byte(shopYAML))
	f.Add([]byte("kind: Pod\nspec: {containers: [1, {ports: [{hostPort: x}]}]}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := readKube("/x", raw)
		if err != nil {
			return
		}
		s.check()
		s.secrets()
		s.hostPorts()
		if _, err := s.local(nil); err != nil {
			t.Error(err)
		}
	})
}
