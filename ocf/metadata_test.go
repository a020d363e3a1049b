package ocf

import (
	"bytes"
	"encoding/xml"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestMetaDataGolden shows in a diff what `pcs resource describe` will say. The
// schemas of Pacemaker and the DTD of ocf-tester are held against it in the lab,
// where they are installed.
func TestMetaDataGolden(t *testing.T) {
	n := newNode(t)
	if code := n.run(ActionMetaData); code != Success {
		t.Fatalf("exit code %d: %s", code, n.stderr.String())
	}
	const golden = "testdata/meta-data.xml"
	if *update {
		if err := os.WriteFile(golden, n.stdout.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, n.stdout.Bytes()) {
		t.Errorf("meta-data is not as in %s; go test ./ocf -update, and look at the difference\n%s", golden, n.stdout.String())
	}
}

func TestMetaDataNeedsNothing(t *testing.T) {
	// ocf-tester runs it as nobody, with almost no environment.
	var out, errs bytes.Buffer
	if code := Run(t.Context(), ParseEnv(nil), ActionMetaData, Options{Stdout: &out, Stderr: &errs}); code != 0 || errs.Len() > 0 {
		t.Errorf("exit code %d, %s", code, errs.String())
	}
	var doc struct {
		Version    string `xml:"version"`
		Parameters []struct {
			Name     string   `xml:"name,attr"`
			Required string   `xml:"required,attr"`
			Long     []string `xml:"longdesc"`
			Short    []string `xml:"shortdesc"`
		} `xml:"parameters>parameter"`
		Actions []struct {
			Name     string `xml:"name,attr"`
			Timeout  string `xml:"timeout,attr"`
			Interval string `xml:"interval,attr"`
			Role     string `xml:"role,attr"`
		} `xml:"actions>action"`
	}
	if err := xml.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Version != "1.1" {
		t.Errorf("OCF version %q: reload-agent needs 1.1", doc.Version)
	}
	for _, p := range doc.Parameters {
		if len(p.Long) != 1 || len(p.Short) != 1 || !strings.Contains(p.Long[0], "Default: ") || !strings.Contains(p.Long[0], "Example: "+p.Name+"=") {
			t.Errorf("parameter %s is not described with meaning, default and example: %q", p.Name, p.Long)
		}
		if p.Required != "0" { // of several that name the workload, one is enough
			t.Errorf("parameter %s: required=%s", p.Name, p.Required)
		}
	}
	monitors := map[string]string{}
	for _, a := range doc.Actions {
		if !strings.HasSuffix(a.Timeout, "s") {
			t.Errorf("action %s: timeout %q has no unit", a.Name, a.Timeout)
		}
		if a.Name == ActionMonitor {
			monitors[a.Interval] = a.Role
		}
	}
	if len(monitors) != 2 {
		t.Errorf("monitors of two roles need two intervals: %v", monitors)
	}
}
