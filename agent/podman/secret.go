package podman

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"

	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/bindings/secrets"
	"github.com/containers/podman/v5/pkg/domain/entities/types"
	"github.com/containers/podman/v5/pkg/specgen"

	"github.com/understudy-ha/understudy/agent/api"
)

// SecretDef is a secret with its content: it is stored as volumes' content is, readable
// by root and the receiving user alone.
type SecretDef struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Data   []byte            `json:"data"`
}

// hash names the secret by its content.
func (d SecretDef) hash() string {
	labels, _ := json.Marshal(d.Labels) // a map of strings cannot fail
	return hash([]byte(d.Name), labels, d.Data)
}

// secretsOf are the names by which a specification asks for secrets, each once.
func secretsOf(s *specgen.SpecGenerator) []string {
	names := slices.Collect(maps.Values(s.EnvSecrets))
	for _, m := range s.Secrets {
		names = append(names, m.Source)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// inspectSecret is the secret with its content; ErrNotFound if there is none.
func (c *Client) inspectSecret(ctx context.Context, name string) (*types.SecretInfoReport, error) {
	return call(ctx, c, "inspect secret "+name, func(ctx context.Context) (*types.SecretInfoReport, error) {
		show := true
		return secrets.Inspect(ctx, name, &secrets.InspectOptions{ShowSecret: &show})
	})
}

// fileDriver keeps secrets in a file of the node, Podman's default.
const fileDriver = "file"

// secretDef reads the secret's content.
func secretDef(s *types.SecretInfoReport) (SecretDef, error) {
	def := SecretDef{Name: s.Spec.Name, Data: []byte(s.SecretData)}
	if len(s.Spec.Labels) > 0 {
		def.Labels = s.Spec.Labels
	}
	if len(def.Data) > 0 && !bytes.ContainsRune(def.Data, utf8.RuneError) {
		return def, nil
	}
	// Podman's answer is JSON, which bytes that are no text do not survive (and older
	// ones do not show a secret at all): read where the driver keeps it.
	file := filepath.Join(s.Spec.Driver.Options["path"], "secretsdata.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		return def, fmt.Errorf("secret %s: %w", def.Name, err)
	}
	var all map[string][]byte
	if err := json.Unmarshal(raw, &all); err != nil {
		return def, fmt.Errorf("secret %s: %s: %w", def.Name, file, err)
	}
	data, ok := all[s.ID]
	if !ok {
		return def, fmt.Errorf("secret %s is not in %s", def.Name, file)
	}
	def.Data = data
	return def, nil
}

// checkSecrets looks at the secrets of one container and adds them to n.
func (c *Client) checkSecrets(ctx context.Context, n *needs, s *specgen.SpecGenerator, d *define.InspectContainerData) ([]Problem, error) {
	var problems []Problem
	for _, name := range secretsOf(s) {
		info, err := c.inspectSecret(ctx, name)
		if errors.Is(err, ErrNotFound) {
			problems = append(problems, Problem{What: "its secret " + name + " does not exist any more", Next: "make it with `podman secret create`"})
			continue
		}
		if err != nil {
			return nil, err
		}
		switch {
		case info.Spec.Driver.Name != fileDriver:
			problems = append(problems, Problem{
				What: fmt.Sprintf("its secret %s is kept by the driver %s, whose content is not carried", name, info.Spec.Driver.Name),
				Next: "make it with the driver file",
			})
			continue
		case info.Spec.Name != name:
			problems = append(problems, Problem{What: "it names the secret " + info.Spec.Name + " by its ID", Next: "make it with --secret " + info.Spec.Name})
			continue
		case info.UpdatedAt.After(d.Created):
			problems = append(problems, Problem{
				What: "its secret " + name + " was changed after it was made: here it may have the old content, on a standby it gets the new one",
				Next: "make the container again", Warning: true,
			})
		}
		def, err := secretDef(info)
		if err != nil {
			return nil, err
		}
		n.secrets[name] = def
	}
	return problems, nil
}

// ensureSecret makes the secret what the definition says. One of the name that is
// not Understudy's is left alone, unless it is the same.
func (c *Client) ensureSecret(ctx context.Context, def SecretDef) (change string, err error) {
	have, err := c.inspectSecret(ctx, def.Name)
	replace := err == nil
	if err := ignoreNotFound(err); err != nil {
		return "", err
	}
	if replace {
		if have.Spec.Driver.Name == fileDriver {
			now, err := secretDef(have)
			if err != nil {
				return "", err
			}
			if now.hash() == def.hash() {
				return "", c.record.setSecret(def.Name, def.hash())
			}
		}
		if _, ours, err := c.record.secret(def.Name); err != nil || !ours {
			return "", errors.Join(err, fail(ErrForeign, api.KindRefused, "if it is not needed there, remove it: `podman secret rm "+def.Name+"`",
				"a secret named %s exists on this node, is not the active's, and is not Understudy's", def.Name))
		}
	}
	if err := c.record.setSecret(def.Name, def.hash()); err != nil {
		return "", err
	}
	err = do(ctx, c, "create secret "+def.Name, func(ctx context.Context) error {
		driver := fileDriver
		_, err := secrets.Create(ctx, bytes.NewReader(def.Data), &secrets.CreateOptions{Name: &def.Name, Driver: &driver, Labels: def.Labels, Replace: &replace})
		return err
	})
	if err != nil {
		return "", err
	}
	if replace {
		return "secret " + def.Name + ": replaced", nil
	}
	return "secret " + def.Name + ": created", nil
}

// secretHashes are what a container is made from besides its specification.
func secretHashes(s *specgen.SpecGenerator, n *needs) map[string]string {
	var out map[string]string
	for _, name := range secretsOf(s) {
		if def, ok := n.secrets[name]; ok {
			if out == nil {
				out = map[string]string{}
			}
			out[name] = def.hash()
		}
	}
	return out
}

// plainSecrets drops the secrets' IDs from a description, and their order.
func plainSecrets(v any) any {
	list, _ := v.([]any)
	for _, e := range list {
		if m, ok := e.(map[string]any); ok {
			delete(m, "ID")
		}
	}
	ordered(v)
	return list
}
