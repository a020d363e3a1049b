package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/drill"
)

func init() {
	register(work{
		id: "thin-image", what: "a new image, which is a small layer on a large one that the standby has", on: both,
		full: shape{size: 500 << 20, pairs: 3}, small: shape{size: 64 << 20, pairs: 2, once: true}, grows: "bytes", dear: true, run: thinImage,
	})
}

// layerSize is how large the small layer is.
const layerSize = 5 << 20

// thinImage changes the service's container to a new image, as README says that it
// is done, and waits until the standby has loaded it. Rivals send another new image
// on the same base.
func thinImage(ctx context.Context, s *site, sh shape) (*row, error) {
	base := fmt.Sprintf(`rm -rf %[1]s/image && mkdir -p %[1]s/image/base && cp %[2]s %[1]s/image/base/
%[2]s tree -kind noise -dir %[1]s/image/base/content -bytes %[3]d -seed %[4]s >/dev/null
tar -C %[1]s/image/base -c . | podman import -q --change 'ENTRYPOINT ["/bench-node"]' - localhost/base:1 >/dev/null
rm -rf %[1]s/image/base`, place, tool, sh.size, s.seed())
	if _, err := s.n1.Shell(ctx, base); err != nil {
		return nil, err
	}
	v := service{name: sized("thin", sh), image: "localhost/base:1", args: "idle", interval: "1s"}
	if err := s.serve(ctx, v); err != nil {
		return nil, err
	}
	// podman image scp takes no keys from ssh's own places.
	_, err := s.n1.Exec(ctx, "podman", "system", "connection", "add", "n2", "--identity", "/root/.ssh/id_ed25519", "ssh://root@n2/run/podman/podman.sock")
	if err != nil {
		return nil, err
	}
	t := &thin{s: s, v: v}
	us, them, err := s.inTurns(sh.pairs, func(i int) (float64, error) { return t.ours(ctx, i) }, func(i int) (float64, error) { return t.theirs(ctx, i) })
	if err != nil {
		return nil, err
	}
	scp := versus("× layer", us, "podman image scp", t.scp).named("against a copy by scp")
	r := newRow(versus("× layer", us, "podman save | ssh podman load", them).atMost(1.1, drill.Median, "≤ 1.1 × the layer"), scp,
		versus("s", t.took, "podman save | ssh podman load", t.saved).named("time"))
	r.note("bytes at n1's network interface until n2 has the image, by the size of the new layer, %.1f MB on %.0f MB; gossip and Corosync are in them", mb(layerSize), mb(sh.size))
	r.note("time: from the new container on until its agent says that n2 has the image, at interval 1s")
	return r, nil
}

// thin is a run's state.
type thin struct {
	s                *site
	v                service
	took, saved, scp []float64
}

// build makes an image of one new layer on the base, and returns its ID.
func (t *thin) build(ctx context.Context, tag string) (string, error) {
	out, err := t.s.n1.Shell(ctx, fmt.Sprintf(`d=%[1]s/image/layer; rm -rf $d && mkdir -p $d
%[2]s tree -kind noise -dir $d/new -bytes %[3]d -seed %[4]s >/dev/null
printf 'FROM localhost/base:1\nCOPY new /new\n' >$d/Containerfile
podman build -q --network none -t %[5]s $d`, place, tool, layerSize, t.s.seed(), tag))
	return strings.TrimSpace(out), err
}

func (t *thin) ours(ctx context.Context, i int) (float64, error) {
	tag := fmt.Sprintf("localhost/thin:%d", i+2)
	id, err := t.build(ctx, tag)
	if err != nil {
		return 0, err
	}
	if err := t.s.rest(ctx); err != nil {
		return 0, err
	}
	if err := t.managed(ctx, false); err != nil {
		return 0, err
	}
	var began time.Time
	part, err := t.s.share(layerSize, func() error {
		began = time.Now()
		_, err := t.s.n1.Shell(ctx, fmt.Sprintf(`podman rm -f -t 0 %[1]s >/dev/null
podman run -d --name %[1]s -v %[2]s:/data %[3]s %[4]s >/dev/null`, t.v.name, t.v.volume(), tag, t.v.args))
		if err != nil {
			return err
		}
		return until(ctx, 2*time.Minute, "n2 to have image "+tag, func() error {
			st, err := t.s.status(ctx, t.s.n2)
			if err == nil && !slices.ContainsFunc(st.Images, func(have string) bool { return strings.TrimPrefix(have, "sha256:") == id }) {
				err = fmt.Errorf("it has %v, not %s; it lacks %v", st.Images, id, st.Missing)
			}
			return err
		})
	})
	t.took = append(t.took, time.Since(began).Seconds())
	if err != nil {
		return 0, err
	}
	return part, errors.Join(t.managed(ctx, true), t.s.ready(ctx))
}

// managed takes the service into Pacemaker's hands, or out of them: maintenance also ends its monitors, which
// would remember a container that is away for a moment as a failure.
func (t *thin) managed(ctx context.Context, yes bool) error {
	_, err := t.s.n1.Exec(ctx, "crm_resource", "--quiet", "--meta", "--resource", t.v.name, "--set-parameter", "maintenance", "--parameter-value", fmt.Sprint(!yes))
	return err
}

// theirs sends one new image by `save | load`, and another by scp.
func (t *thin) theirs(ctx context.Context, i int) (float64, error) {
	send := func(way string) (part, seconds float64, err error) {
		tag := fmt.Sprintf("localhost/%s:%d", way, i)
		if _, err := t.build(ctx, tag); err != nil {
			return 0, 0, err
		}
		if err := t.s.rest(ctx); err != nil {
			return 0, 0, err
		}
		command := map[string]string{
			"saved":  "podman save -q " + tag + " | ssh n2 podman load -q >&2",
			"copied": "podman image scp -q " + tag + " n2:: >&2",
		}[way]
		var r ran
		part, err = t.s.share(layerSize, func() (err error) {
			r, err = t.s.timed(ctx, t.s.n1, "", tool, "run", "--", "bash", "-euo", "pipefail", "-c", command)
			return err
		})
		return part, r.MS / 1000, err
	}
	part, seconds, err := send("saved")
	if err != nil {
		return 0, err
	}
	t.saved = append(t.saved, seconds)
	other, _, err := send("copied")
	t.scp = append(t.scp, other)
	return part, err
}
