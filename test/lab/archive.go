package lab

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"time"
)

// imageConfig is the part of an OCI image configuration that the lab's images use.
type imageConfig struct {
	Entrypoint []string            `json:"Entrypoint,omitempty"`
	Cmd        []string            `json:"Cmd,omitempty"`
	Env        []string            `json:"Env,omitempty"`
	Volumes    map[string]struct{} `json:"Volumes,omitempty"`
	Ports      map[string]struct{} `json:"ExposedPorts,omitempty"`
	StopSignal string              `json:"StopSignal,omitempty"`
}

// layerFile is one entry of a layer: a directory (mode with fs.ModeDir), a symlink, the content of a
// file of this machine, or given content.
type layerFile struct {
	mode fs.FileMode
	link string
	from string
	data []byte
}

// layer is the tree of a layer by path without a leading slash; parents are made as needed.
type layer map[string]layerFile

// writeLayer writes l as a tar that depends on its content only: same input, same image ID.
func writeLayer(dst string, l layer) error {
	f, err := os.Create(dst)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for p := range l {
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if _, ok := l[d]; !ok {
				l[d] = layerFile{mode: fs.ModeDir | 0o755}
			}
		}
	}
	names := make([]string, 0, len(l))
	for p := range l {
		names = append(names, p)
	}
	sort.Strings(names)
	for _, p := range names {
		if err := writeEntry(w, p, l[p]); err != nil {
			return fmt.Errorf("layer entry %s: %w", p, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}

func writeEntry(w *tar.Writer, name string, e layerFile) error {
	h := &tar.Header{Name: name, Mode: int64(e.mode.Perm()), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	if e.mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	switch {
	case e.mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case e.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
	case e.from != "":
		b, err := os.ReadFile(e.from)
		if err != nil {
			return err
		}
		e.data = b
	}
	h.Size = int64(len(e.data))
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(e.data)
	return err
}

// writeArchive makes a docker-archive of an image with one tag from layers, tar files, bottom first.
func writeArchive(dst, tag string, cfg imageConfig, layers ...string) error {
	var diffIDs, files []string
	for _, l := range layers {
		sum, err := sha256File(l)
		if err != nil {
			return err
		}
		diffIDs = append(diffIDs, "sha256:"+sum)
		files = append(files, sum+".tar")
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z", "config": cfg,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(config)
	configName := hex.EncodeToString(sum[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{tag}, "Layers": files}})
	if err != nil {
		return err
	}
	f, err := os.Create(dst)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for i, l := range layers {
		if err := addFile(w, files[i], l); err != nil {
			return err
		}
	}
	for _, e := range []struct {
		name string
		data []byte
	}{{configName, config}, {"manifest.json", manifest}} {
		if err := writeEntry(w, e.name, layerFile{mode: 0o644, data: e.data}); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}

func addFile(w *tar.Writer, name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: 0o644, Size: st.Size(), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

func sha256File(p string) (string, error) {
	f, err := os.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
