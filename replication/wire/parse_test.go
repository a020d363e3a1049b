package wire

import (
	"bytes"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-ha/understudy/replication"
)

func FuzzWant(f *testing.F) {
	f.Add([]byte(""))
	f.Add(formatHashes([]hash{{1}, {2}}))
	f.Add([]byte(strings.Repeat("a", 64) + "\r\n"))
	f.Add(bytes.Repeat([]byte("0"), 500))
	f.Fuzz(func(t *testing.T, b []byte) {
		hs, err := parseHashes(bytes.NewReader(b), 10)
		if err != nil {
			return
		}
		if len(hs) > 10 {
			t.Errorf("%d hashes, at most 10", len(hs))
		}
		again, err := parseHashes(bytes.NewReader(formatHashes(hs)), 10)
		if err != nil || !slices.Equal(again, hs) {
			t.Errorf("%v came back as %v, %v", hs, again, err)
		}
	})
}

func FuzzState(f *testing.F) {
	good, _ := replication.State{Service: svc, Term: 3, Head: id(3, 1), HeadSum: hash{1}.String()}.JSON()
	f.Add(good)
	f.Add([]byte(`{"service":"registry","term":1,"head":"9.9","head_sum":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b, svc)
		if err == nil && (s.Service != svc || s.Head.Term > s.Term) {
			t.Errorf("accepted %+v", s)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, p := range []string{"/", "/a/state", "/a/incoming/1.2.manifest", packName(1), "/../x", "/a/images/" + hash{}.String() + ".image"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		n, err := resolve(p)
		if err != nil {
			return
		}
		if path.Clean(p) != p || strings.ContainsAny(n.service+n.base, "/\x00") || strings.HasPrefix(n.service, ".") {
			t.Errorf("%q was resolved to %+v", p, n)
		}
		if n.base != "" && p != "/"+n.service+"/"+n.dir+"/"+n.base {
			t.Errorf("%q has a second spelling: %+v", p, n)
		}
	})
}

func TestCheckCommand(t *testing.T) {
	for asked, good := range map[string]bool{
		"": true, "understudy receive": true, "internal-sftp": true, "/usr/lib/openssh/sftp-server -l INFO": true,
		"scp -t /tmp/x": false, "rsync --server -e.LsfxC . /": false, "understudy receive; rm -rf /": false, "rm sftp-server": false,
	} {
		if err := CheckCommand(asked); (err == nil) != good {
			t.Errorf("%q: %v", asked, err)
		}
	}
}
