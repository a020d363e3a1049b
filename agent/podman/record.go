package podman

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"

	"github.com/google/renameio/v2"
)

// record remembers which containers and networks on this node are Understudy's:
// those it made, and those it captured as active (they become the standby's when
// the roles change). Only these may be made again. It is a file and not a label
// because a label would show in `podman inspect`.
//
// A loss of the file costs no more than an adoption: what looks exactly as the
// definition says is taken for ours again, anything else is refused by name.
type record struct {
	path string

	mu     sync.Mutex // guards what follows
	loaded bool
	data   recordData
}

type recordData struct {
	Version    int                   `json:"version"`
	Containers map[string]entry      `json:"containers"`
	Pods       map[string]entry      `json:"pods,omitempty"`
	Networks   map[string]string     `json:"networks"`           // name to hash of the definition it was made from
	Secrets    map[string]string     `json:"secrets,omitempty"`  // the same
	Kube       map[string]kubeEntry  `json:"kube,omitempty"`     // by path
	Images     map[string]imageEntry `json:"images,omitempty"`   // by ID: those that Understudy brought
	Lost       map[string]lostImage  `json:"lost,omitempty"`     // by ID: damaged ones, removed to be loaded anew
	Borrowed   map[string]loan       `json:"borrowed,omitempty"` // by name
}

// kubeEntry is YAML that pods on this node were made of. It is right for the pods of these IDs.
type kubeEntry struct {
	YAML []byte            `json:"yaml"`
	Pods map[string]string `json:"pods"` // name to ID
}

// entry of a container or pod. ID is empty from before it is made until after: whatever
// has the name then is ours, for nothing of the name was there before.
type entry struct {
	ID      string `json:"id"`
	Hash    string `json:"hash"`
	Secrets string `json:"secrets,omitempty"` // hash of those it got: they do not show
}

const recordVersion = 1

func (r *record) loadLocked() error {
	if r.loaded {
		return nil
	}
	data := recordData{Version: recordVersion}
	data.fill()
	if r.path != "" {
		raw, err := os.ReadFile(r.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			if data, err = parseRecord(raw); err != nil {
				return fmt.Errorf("%s: %w", r.path, err)
			}
		}
	}
	r.data, r.loaded = data, true
	return nil
}

func parseRecord(raw []byte) (recordData, error) {
	var data recordData
	if err := json.Unmarshal(raw, &data); err != nil {
		return data, fmt.Errorf("the record of Understudy's containers is damaged (remove it: containers that match are adopted again): %w", err)
	}
	if data.Version != recordVersion {
		return data, fmt.Errorf("the record of Understudy's containers has version %d, this software knows %d", data.Version, recordVersion)
	}
	data.fill()
	return data, nil
}

// fill makes the maps that an older or empty record lacks.
func (d *recordData) fill() {
	for _, m := range []*map[string]entry{&d.Containers, &d.Pods} {
		if *m == nil {
			*m = map[string]entry{}
		}
	}
	if d.Kube == nil {
		d.Kube = map[string]kubeEntry{}
	}
	if d.Images == nil {
		d.Images = map[string]imageEntry{}
	}
	if d.Lost == nil {
		d.Lost = map[string]lostImage{}
	}
	if d.Borrowed == nil {
		d.Borrowed = map[string]loan{}
	}
	for _, m := range []*map[string]string{&d.Networks, &d.Secrets} {
		if *m == nil {
			*m = map[string]string{}
		}
	}
}

// container is what is known of the container of that name.
func (r *record) container(name string) (e entry, ok bool, err error) {
	err = r.read(func(d *recordData) { e, ok = d.Containers[name] })
	return e, ok, err
}

func (r *record) pod(name string) (e entry, ok bool, err error) {
	err = r.read(func(d *recordData) { e, ok = d.Pods[name] })
	return e, ok, err
}

func (r *record) kube(path string) (e kubeEntry, ok bool, err error) {
	err = r.read(func(d *recordData) { e, ok = d.Kube[path] })
	return e, ok, err
}

// kubeOf is the path of the YAML that the pod was made of, "" for none.
func (r *record) kubeOf(pod string) (path string, err error) {
	err = r.read(func(d *recordData) {
		for p, e := range d.Kube {
			if _, ok := e.Pods[pod]; ok {
				path = p
			}
		}
	})
	return path, err
}

func (r *record) setKube(path string, e kubeEntry) error {
	if have, ok, err := r.kube(path); err == nil && ok && bytes.Equal(have.YAML, e.YAML) && maps.Equal(have.Pods, e.Pods) {
		return nil
	}
	return r.update(func(d *recordData) { d.Kube[path] = e })
}

func (r *record) network(name string) (string, bool, error) {
	return r.hashOf(func(d *recordData) map[string]string { return d.Networks }, name)
}

func (r *record) secret(name string) (string, bool, error) {
	return r.hashOf(func(d *recordData) map[string]string { return d.Secrets }, name)
}

func (r *record) hashOf(in func(*recordData) map[string]string, name string) (h string, ok bool, err error) {
	err = r.read(func(d *recordData) { h, ok = in(d)[name] })
	return h, ok, err
}

// read lets f look at the record.
func (r *record) read(f func(*recordData)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.loadLocked(); err != nil {
		return err
	}
	f(&r.data)
	return nil
}

// update changes the record and makes it durable before it returns.
func (r *record) update(change func(*recordData)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.loadLocked(); err != nil {
		return err
	}
	change(&r.data)
	if r.path == "" {
		return nil
	}
	raw, err := json.MarshalIndent(r.data, "", "  ")
	if err != nil {
		return err
	}
	return renameio.WriteFile(r.path, append(raw, '\n'), 0o600)
}

func (r *record) setContainer(name string, e entry) error {
	if have, ok, err := r.container(name); err == nil && ok && have == e {
		return nil
	}
	return r.update(func(d *recordData) { d.Containers[name] = e })
}

func (r *record) setPod(name string, e entry) error {
	if have, ok, err := r.pod(name); err == nil && ok && have == e {
		return nil
	}
	return r.update(func(d *recordData) { d.Pods[name] = e })
}

func (r *record) setNetwork(name, hash string) error {
	if have, ok, err := r.network(name); err == nil && ok && have == hash {
		return nil
	}
	return r.update(func(d *recordData) { d.Networks[name] = hash })
}

func (r *record) setSecret(name, hash string) error {
	if have, ok, err := r.secret(name); err == nil && ok && have == hash {
		return nil
	}
	return r.update(func(d *recordData) { d.Secrets[name] = hash })
}
