package podman

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containers/podman/v5/libpod/define"
)

func podInspected(flags ...string) *define.InspectPodData {
	return &define.InspectPodData{
		Name: "shop", ExitPolicy: "continue", CreateCommand: append([]string{"podman", "pod", "create"}, flags...),
		Containers: []define.InspectPodContainerInfo{{Name: "shop-infra"}, {Name: "web"}},
	}
}

// TestPodSpecGolden: as TestSpecGolden, for pods.
func TestPodSpecGolden(t *testing.T) {
	for name, d := range map[string]*define.InspectPodData{
		"pod-plain": podInspected("shop"),
		"pod-network": podInspected("-n", "shop", "--network", "front:ip=192.0.2.9", "-p", "80:8080", "--add-host", "h:192.0.2.2", "--dns", "192.0.2.1",
			"--hostname", "shop.example", "--label", "a=b", "--replace", "--pod-id-file=/run/x"),
		"pod-shared": podInspected("--name=shop", "--share", "+pid", "--exit-policy=stop", "--shm-size", "16m", "--sysctl", "net.core.somaxconn=9",
			"-v", "data:/data:ro", "--restart=always", "--infra-command", "/pause", "--memory", "64m", "--cpus", "1.5", "--security-opt", "no-new-privileges"),
		"pod-loose": podInspected("--name", "shop", "--infra=false"),
	} {
		t.Run(name, func(t *testing.T) {
			infra := inspected()
			infra.Name = "shop-infra"
			if strings.Contains(name, "network") {
				infra = in(infra, "front")
			}
			if name == "pod-loose" {
				infra = nil
			}
			s, problems := buildPodSpec(d, infra)
			if fatal(problems) {
				t.Fatal(problems)
			}
			raw, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			raw = append(raw, '\n')
			golden := filepath.Join("testdata", "spec", name+".json")
			if *update {
				if err := os.WriteFile(golden, raw, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(raw, want) {
				t.Errorf("differs from %s:\n%s", golden, raw)
			}
			back, err := decodePodSpec(raw)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := json.MarshalIndent(back, "", "  "); err != nil || !bytes.Equal(append(again, '\n'), raw) {
				t.Errorf("it does not survive a definition (%v):\n%s", err, again)
			}
		})
	}
}

func TestPodsRefusedByName(t *testing.T) {
	kube := podInspected()
	kube.CreateCommand = nil
	for name, tc := range map[string]struct {
		d    *define.InspectPodData
		want string
	}{
		"kube play":      {kube, "podman pod create"},
		"by a container": {&define.InspectPodData{Name: "shop", CreateCommand: []string{"podman", "run", "--pod", "new:shop", "img"}}, "podman pod create"},
		"global flag":    {&define.InspectPodData{Name: "shop", CreateCommand: []string{"podman", "--root=/x", "pod", "create", "shop"}}, "--root"},
		"unknown flag":   {podInspected("--frobnicate"), "frobnicate"},
		"device":         {podInspected("--device", "/dev/x"), "--device"},
		"user namespace": {podInspected("--userns=auto"), "--userns"},
		"any port":       {podInspected("-p", "80"), "port 80"},
		"overlay":        {podInspected("-v", "/srv:/x:O"), "overlay"},
	} {
		s, problems := buildPodSpec(tc.d, nil)
		if s != nil || !fatal(problems) {
			t.Errorf("%s: it was carried: %v", name, problems)
			continue
		}
		if err := asError(problems); !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "pod shop") {
			t.Errorf("%s: %q is not named in: %v", name, tc.want, err)
		}
	}
	if p := missingFrom(Workload{Containers: []string{"shop-infra"}}, podInspected()); len(p) != 1 || !strings.Contains(p[0].String(), "web") {
		t.Errorf("a container of the pod that is not the service's: %v", p)
	}
}
