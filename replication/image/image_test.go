package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
)

// entry is one file of an archive that a test builds.
type entry struct {
	name string
	data []byte
	typ  byte
}

func digest(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

func blobEntry(b []byte) entry {
	return entry{name: blobPrefix + strings.TrimPrefix(digest(b), "sha256:"), data: b}
}

// podman builds an image as `podman save --format oci-archive` lays it out.
// Layers starting with "gz" count as compressed.
func podman(layers ...string) (es []entry, id string) {
	var diffIDs []string
	var ls []map[string]any
	var blobs []entry
	for _, l := range layers {
		b, typ, diff := []byte(l), "application/vnd.oci.image.layer.v1.tar", digest([]byte(l))
		if strings.HasPrefix(l, "gz") {
			typ, diff = typ+"+gzip", digest([]byte("unpacked "+l))
		}
		diffIDs = append(diffIDs, diff)
		ls = append(ls, map[string]any{"mediaType": typ, "digest": digest(b), "size": len(b)})
		if e := blobEntry(b); !slices.ContainsFunc(blobs, func(o entry) bool { return o.name == e.name }) {
			blobs = append(blobs, e)
		}
	}
	config := js(map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}})
	manifest := js(map[string]any{"schemaVersion": 2, "config": map[string]any{"digest": digest(config), "size": len(config)}, "layers": ls})
	index := js(map[string]any{"schemaVersion": 2, "manifests": []any{map[string]any{
		"digest": digest(manifest), "size": len(manifest), "annotations": map[string]string{"org.opencontainers.image.ref.name": "localhost/web:1"},
	}}})
	es = []entry{{name: "blobs/", typ: tar.TypeDir}, {name: "blobs/sha256/", typ: tar.TypeDir}}
	es = append(es, blobs...)
	es = append(es, blobEntry(config), blobEntry(manifest), entry{name: indexName, data: index}, entry{name: layoutName, data: []byte(`{"imageLayoutVersion":"1.0.0"}`)})
	return es, digest(config)
}

func js(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func pack(es []entry) []byte {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range es {
		typ := e.typ
		if typ == 0 {
			typ = tar.TypeReg
		}
		h := &tar.Header{Name: e.name, Typeflag: typ, Size: int64(len(e.data)), Mode: 0o755}
		if typ == tar.TypeSymlink || typ == tar.TypeLink {
			h.Linkname, h.Size = string(e.data), 0
		}
		if err := tw.WriteHeader(h); err != nil {
			panic(err)
		}
		if h.Size > 0 {
			_, _ = tw.Write(e.data)
		}
	}
	if err := tw.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

func unpack(t *testing.T, b []byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	tr := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(data)
	}
}

func thin(b []byte, have ...string) (Info, []byte, error) {
	m := map[string]bool{}
	for _, h := range have {
		m[h] = true
	}
	var out bytes.Buffer
	info, err := Thin(&out, bytes.NewReader(b), int64(len(b)), m)
	return info, out.Bytes(), err
}

func TestThin(t *testing.T) {
	base, mid, top := strings.Repeat("base", 5000), "gz mid", strings.Repeat("top", 3000)
	es, id := podman(base, mid, top, top) // an empty layer can be there twice
	full := pack(es)
	cases := map[string]struct {
		have, gone []string
	}{
		"nothing there":          {nil, nil},
		"base there":             {[]string{digest([]byte(base)), digest([]byte("foreign"))}, []string{base}},
		"compressed one there":   {[]string{digest([]byte("unpacked " + mid)), digest([]byte(mid))}, nil},
		"a layer used twice":     {[]string{digest([]byte(top))}, []string{top}},
		"everything that may be": {[]string{digest([]byte(base)), digest([]byte(top)), digest([]byte("unpacked " + mid))}, []string{base, top}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			info, out, err := thin(full, c.have...)
			if err != nil {
				t.Fatal(err)
			}
			if info.ID != id || info.Bytes != int64(len(out)) || !slices.Equal(info.Names, []string{"localhost/web:1"}) {
				t.Errorf("got %+v, want image %s, %d bytes", info, id, len(out))
			}
			want := unpack(t, full)
			maps.DeleteFunc(want, func(n, _ string) bool { return strings.HasSuffix(n, "/") })
			var missing []string
			for _, g := range c.gone {
				delete(want, blobEntry([]byte(g)).name)
				missing = append(missing, digest([]byte(g)))
			}
			if got := unpack(t, out); !maps.Equal(got, want) {
				t.Errorf("got %d files, want %d", len(got), len(want))
			}
			again, err := Inspect(bytes.NewReader(out), int64(len(out)))
			if err != nil {
				t.Fatal(err)
			}
			if again.ID != id || !slices.Equal(missingOf(again), missing) || !slices.Equal(diffIDs(again), diffIDs(info)) {
				t.Errorf("inspected: %+v, want missing %v", again, missing)
			}
			if _, twice, _ := thin(full, c.have...); !bytes.Equal(twice, out) {
				t.Error("the same image gives other bytes")
			}
		})
	}
}

func TestThinOfThin(t *testing.T) {
	es, _ := podman("base", "top")
	_, out, err := thin(pack(es), digest([]byte("base")))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := thin(out, digest([]byte("base"))); err != nil {
		t.Errorf("for a peer that has the layer: %v", err)
	}
	if _, _, err := thin(out); !errors.Is(err, ErrArchive) {
		t.Errorf("for a peer that has not: %v", err)
	}
}

func TestRefused(t *testing.T) {
	good, _ := podman("base", "top")
	with := func(e ...entry) []entry { return append(slices.Clone(good), e...) }
	change := func(name string, f func([]byte) []byte) []entry {
		es := slices.Clone(good)
		for i := range es {
			if es[i].name == name {
				es[i].data = f(slices.Clone(es[i].data))
			}
		}
		return es
	}
	without := func(name string) []entry {
		return slices.DeleteFunc(slices.Clone(good), func(e entry) bool { return e.name == name })
	}
	flip := func(b []byte) []byte { b[0] ^= 1; return b }
	config := good[4].name
	wrongDiff, _ := podman("base")
	wrongDiff[3].data = js(map[string]any{"rootfs": map[string]any{"diff_ids": []string{digest([]byte("other"))}}})
	many := slices.Clone(good)
	for i := range maxEntries {
		many = append(many, blobEntry(fmt.Append(nil, i)))
	}
	cases := map[string]struct {
		es   []entry
		want error
	}{
		"empty":              {nil, ErrArchive},
		"no index":           {without(indexName), ErrArchive},
		"no layout":          {without(layoutName), ErrArchive},
		"no config":          {without(config), ErrArchive},
		"path escapes":       {with(entry{name: "../../etc/passwd", data: []byte("x")}), ErrArchive},
		"absolute":           {with(entry{name: "/etc/passwd", data: []byte("x")}), ErrArchive},
		"blob escapes":       {with(entry{name: "blobs/sha256/../../x", data: []byte("x")}), ErrArchive},
		"symlink":            {with(entry{name: "blobs/sha256/" + strings.Repeat("a", 64), data: []byte("/etc/shadow"), typ: tar.TypeSymlink}), ErrArchive},
		"hard link":          {with(entry{name: "blobs/sha256/" + strings.Repeat("a", 64), data: []byte("index.json"), typ: tar.TypeLink}), ErrArchive},
		"device":             {with(entry{name: "blobs/sha256/" + strings.Repeat("a", 64), typ: tar.TypeChar}), ErrArchive},
		"upper-case digest":  {with(entry{name: "blobs/sha256/" + strings.Repeat("A", 64)}), ErrArchive},
		"docker archive":     {with(entry{name: "manifest.json", data: []byte("[]")}), ErrArchive},
		"index twice":        {with(good[len(good)-2]), ErrArchive},
		"blob twice":         {with(good[2]), ErrArchive},
		"too many":           {many, ErrArchive},
		"flipped config":     {change(config, flip), ErrDigest},
		"flipped layer":      {change(good[2].name, flip), ErrDigest},
		"short layer":        {change(good[2].name, func(b []byte) []byte { return b[1:] }), ErrDigest},
		"index is no JSON":   {change(indexName, flip), ErrArchive},
		"two images":         {change(indexName, func(b []byte) []byte { return bytes.Replace(b, []byte(`[{`), []byte(`[{},{`), 1) }), ErrArchive},
		"other digest":       {change(indexName, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("sha256:"), []byte("sha512:")) }), ErrArchive},
		"huge index":         {change(indexName, func([]byte) []byte { return make([]byte, maxJSON+1) }), ErrArchive},
		"diff ID of another": {rehash(wrongDiff), ErrDigest},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := pack(c.es)
			if _, err := Inspect(bytes.NewReader(b), int64(len(b))); !errors.Is(err, c.want) {
				t.Errorf("Inspect: %v, want %v", err, c.want)
			}
			if _, _, err := thin(b); !errors.Is(err, c.want) {
				t.Errorf("Thin: %v, want %v", err, c.want)
			}
		})
	}
	b := pack(good)
	for _, n := range []int{100, 1000, len(b) / 2} {
		if _, err := Inspect(bytes.NewReader(b[:n]), int64(n)); err == nil {
			t.Errorf("cut after %d bytes, and accepted", n)
		}
	}
}

// rehash makes the documents of a one-layer image fit together again after its
// config was changed: layer, config, manifest, index.
func rehash(es []entry) []entry {
	es = slices.Clone(es)
	layer, config := es[2], es[3]
	es[3] = blobEntry(config.data)
	m := js(map[string]any{"config": map[string]any{"digest": digest(config.data), "size": len(config.data)}, "layers": []any{
		map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer.data), "size": len(layer.data)},
	}})
	es[4] = blobEntry(m)
	es[5].data = js(map[string]any{"manifests": []any{map[string]any{"digest": digest(m), "size": len(m)}}})
	return es
}

// failWriter fails after n bytes.
type failWriter struct{ n int }

func (w *failWriter) Write(b []byte) (int, error) {
	if w.n -= len(b); w.n < 0 {
		return 0, io.ErrShortWrite
	}
	return len(b), nil
}

func TestThinPassesOnWriteErrors(t *testing.T) {
	es, _ := podman("base", "top")
	b := pack(es)
	_, out, err := thin(b)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(out); n += 256 {
		if _, err := Thin(&failWriter{n}, bytes.NewReader(b), int64(len(b)), nil); !errors.Is(err, io.ErrShortWrite) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

func FuzzInspect(f *testing.F) {
	es, _ := podman("base", "gz mid", "top")
	full := pack(es)
	f.Add(full)
	f.Add(full[:len(full)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := Inspect(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		have := map[string]bool{}
		for _, d := range missingOf(info) {
			have[d] = true
		}
		var out bytes.Buffer
		again, err := Thin(&out, bytes.NewReader(b), int64(len(b)), have)
		compressed := slices.ContainsFunc(info.Layers, func(l Layer) bool { return l.Compressed && !l.Present })
		if err == nil && again.ID != info.ID || err != nil && !compressed {
			t.Errorf("inspected as %+v; thinned: %+v, %v", info, again, err)
		}
	})
}

// diffIDs lists the image's layers as a store knows them, from the lowest up.
func diffIDs(i Info) []string {
	ids := make([]string, len(i.Layers))
	for n, l := range i.Layers {
		ids[n] = l.DiffID
	}
	return ids
}

// missingOf lists the diff IDs of the layers whose blobs are not in the archive:
// whoever loads it must have them.
func missingOf(i Info) []string {
	var ids []string
	for _, l := range i.Layers {
		if !l.Present && !slices.Contains(ids, l.DiffID) {
			ids = append(ids, l.DiffID)
		}
	}
	return ids
}
