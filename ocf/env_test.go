package ocf

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-ha/understudy/agent/api"
)

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"5": 5 * time.Second, "5s": 5 * time.Second, "500ms": 500 * time.Millisecond, "2min": 2 * time.Minute, "5m": 5 * time.Minute,
		"1h": time.Hour, "1hr": time.Hour, "1.5s": 1500 * time.Millisecond, "10 sec": 10 * time.Second, "0": 0, "250msec": 250 * time.Millisecond,
		"7us": 7 * time.Microsecond, "1m30s": 90 * time.Second, "5S": 5 * time.Second,
	} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "s", "-5s", "5 parsecs", "1e3s", "0x5s", "99999999999999h", "1.2.3s", "-1m30s", "NaN", "inf", "+5"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q was read as %v", in, got)
		}
	}
}

func TestParseEnv(t *testing.T) {
	e := ParseEnv([]string{
		"OCF_RESOURCE_INSTANCE=web:1", "OCF_RESKEY_CRM_meta_timeout=60000", "OCF_RESKEY_CRM_meta_interval=11000",
		"OCF_RESKEY_CRM_meta_role=Unpromoted", "OCF_RESKEY_CRM_meta_on_node=n1", "OCF_CHECK_LEVEL=10",
		"OCF_RESKEY_max-rpo= 10m ", "OCF_RESKEY_freeze_max=1s", "OCF_RESKEY_intervall=5", "OCF_RESKEY_crm_feature_set=3.20.0", "malformed",
	})
	if e.Service != "web" || e.Timeout != time.Minute || e.Interval != 11*time.Second || e.Role != "Unpromoted" || e.Node != "n1" || e.CheckLevel != 10 || e.Probe() {
		t.Errorf("read as %+v", e)
	}
	if e.Param("max-rpo") != "10m" || e.Param("freeze-max") != "1s" || e.Param("vip") != "" {
		t.Errorf("parameters read as %q", e.params)
	}
	if got := e.Unknown(); !cmp.Equal(got, []string{"intervall"}) {
		t.Errorf("unknown parameters: %q", got)
	}
	for instance, service := range map[string]string{"a": "a", "a:0": "a", "a:12": "a", "a:b": "a:b", "a:": "a:", "": ""} {
		if got := stripInstance(instance); got != service {
			t.Errorf("instance %q is of %q, want %q", instance, got, service)
		}
	}
	if e := ParseEnv(nil); e.Timeout != defaultTimeout || !e.Probe() {
		t.Errorf("an empty environment read as %+v", e)
	}
}

func TestHyphenWins(t *testing.T) {
	e := ParseEnv([]string{"OCF_RESKEY_max_rpo=1m", "OCF_RESKEY_max-rpo=2m"})
	if got := e.Param("max-rpo"); got != "2m" {
		t.Errorf("max-rpo is %q: the name that pcs knows has to win", got)
	}
}

func specOf(params ...string) (api.Spec, []*api.Error) {
	env := []string{"OCF_RESOURCE_INSTANCE=web"}
	for _, p := range params {
		env = append(env, "OCF_RESKEY_"+p)
	}
	return ParseEnv(env).Spec()
}

func TestSpec(t *testing.T) {
	got, problems := specOf("vip=192.0.2.100/24, 2001:DB8:0::100/64", "nic=eth0", "containers=registry,db  cache",
		"volumes=data", "interval=2", "max-rpo=10min", "freeze-max=250ms", "stop-timeout=0", "on-unhealthy=fail", "vip-conflict=take",
		"consistency=hooks", "before-capture=db psql -c  CHECKPOINT", "after-capture=cache resume", "hook-timeout=20s")
	want := api.Spec{
		Service: "web", VIPs: []string{"192.0.2.100/24", "2001:db8::100/64"}, NIC: "eth0",
		Containers: []string{"registry", "db", "cache"}, Volumes: []string{"data"},
		Interval: api.Duration(2 * time.Second), MaxRPO: api.Duration(10 * time.Minute), FreezeMax: api.Duration(250 * time.Millisecond),
		OnUnhealthy: "fail", VIPConflict: "take", BindMounts: "list", OnSuspect: "alarm",
		Consistency: "hooks", BeforeCapture: []string{"db", "psql", "-c", "CHECKPOINT"}, AfterCapture: []string{"cache", "resume"}, HookTimeout: api.Duration(20 * time.Second),
	}
	if diff := cmp.Diff(want, got); diff != "" || len(problems) > 0 {
		t.Errorf("%v\n%s", problems, diff)
	}
}

// A workload need not be containers.
func TestSpecOfUnits(t *testing.T) {
	got, problems := specOf("quadlet=shop.pod, cache.container", "kube=/etc/shop/shop.yaml")
	if len(problems) > 0 || !slices.Equal(got.Quadlet, []string{"shop.pod", "cache.container"}) || !slices.Equal(got.Kube, []string{"/etc/shop/shop.yaml"}) || got.Empty() {
		t.Errorf("%+v, %v", got, problems)
	}
	if _, problems := specOf(); len(problems) != 1 || !strings.Contains(problems[0].Message, "kube") {
		t.Errorf("no workload: %v", problems)
	}
}

// TestDefaults reads every default: apply counts on them being right.
func TestDefaults(t *testing.T) {
	got, problems := specOf("containers=registry")
	want := api.Spec{
		Service: "web", Containers: []string{"registry"}, Interval: api.DefaultInterval, MaxRPO: api.DefaultMaxRPO,
		FreezeMax: api.DefaultFreezeMax, StopTimeout: api.DefaultStopTimeout, OnUnhealthy: api.OnUnhealthyDegraded, VIPConflict: api.ConflictRefuse, BindMounts: api.BindsList, OnSuspect: api.OnSuspectAlarm,
		Consistency: api.ConsistencyFrozen, HookTimeout: api.DefaultHookTimeout,
	}
	if diff := cmp.Diff(want, got); diff != "" || len(problems) > 0 {
		t.Errorf("%v\n%s", problems, diff)
	}
	for _, p := range parameters {
		if p.read == nil {
			continue
		}
		var spec api.Spec
		if err := p.read(&spec, p.example); err != nil {
			t.Errorf("the example of %s: %v", p.name, err)
		}
	}
}

func TestSpecProblems(t *testing.T) {
	for _, tc := range []struct {
		param string
		kind  api.Kind
		says  string
	}{
		{"containers=", api.KindConfigured, "containers"},
		{"containers=,", api.KindConfigured, "names no container"},
		{"containers=a,a", api.KindConfigured, "twice"},
		{"containers=../etc", api.KindConfigured, "not a container's name"},
		{"quadlet=shop.network", api.KindConfigured, "not the name of a quadlet file"},
		{"quadlet=/etc/containers/systemd/shop.pod", api.KindConfigured, "not the name of a quadlet file"},
		{"quadlet=a.pod a.pod", api.KindConfigured, "twice"},
		{"kube=shop.yaml", api.KindConfigured, "not an absolute path"},
		{"kube=/etc/../shop.yaml", api.KindConfigured, "not an absolute path"},
		{"kube=,", api.KindConfigured, "names no file"},
		{"volumes=/srv/data", api.KindConfigured, "not a volume's name"},
		{"vip=192.0.2.100", api.KindConfigured, "lacks the prefix length of its network, such as 192.0.2.100/24"},
		{"vip=2001:db8::1", api.KindConfigured, "such as 2001:db8::1/64"},
		{"vip=192.0.2.0/24", api.KindConfigured, "is a network"},
		{"vip=192.0.2.1/33", api.KindConfigured, "not an address"},
		{"vip=127.0.0.1/8", api.KindConfigured, "not an address that a node can have"},
		{"vip=::ffff:192.0.2.1/120", api.KindConfigured, "write 192.0.2.1"},
		{"vip=192.0.2.1/24 192.0.2.1/25", api.KindConfigured, "twice"},
		{"vip=192.0.2.1/0", api.KindConfigured, "prefix length 0"},
		{"vip=www.example.org/24", api.KindConfigured, "not an address"},
		{"nic=a-name-that-is-too-long", api.KindConfigured, "not an interface's name"},
		{"interval=often", api.KindArgs, "not a duration"},
		{"interval=0", api.KindArgs, "too short"},
		{"interval=10m", api.KindArgs, "shorter than interval"},
		{"max-rpo=-1", api.KindArgs, "not a duration"},
		{"on-unhealthy=panic", api.KindArgs, "none of degraded, fail, ignore"},
		{"vip-conflict=ask", api.KindArgs, "none of refuse, take"},
	} {
		_, problems := specOf("containers=registry", tc.param)
		if len(problems) != 1 || problems[0].Kind != tc.kind || !strings.Contains(problems[0].Message, tc.says) {
			t.Errorf("%s: %v, want one problem of kind %s that says %q", tc.param, problems, tc.kind, tc.says)
			continue
		}
		if problems[0].Next == "" {
			t.Errorf("%s: %v does not say what to do", tc.param, problems[0])
		}
	}
	// A /31 and a /127 have no network address.
	if _, problems := specOf("containers=a", "vip=192.0.2.0/31,2001:db8::/127,192.0.2.9/32"); len(problems) > 0 {
		t.Errorf("point-to-point networks: %v", problems)
	}
}

// FuzzEnv holds what is read to what the agent may count on.
func FuzzEnv(f *testing.F) {
	f.Add("web:0", "192.0.2.1/24", "registry", "5s", "1000")
	f.Add("", "::/0,", "a,,b", "1e9999s", "-1")
	f.Add("../..", "fe80::1%eth0/64", "x y\tz", "9223372036854775807", "99999999999999999999")
	f.Fuzz(func(t *testing.T, instance, vip, names, duration, ms string) {
		e := ParseEnv([]string{
			"OCF_RESOURCE_INSTANCE=" + instance, "OCF_RESKEY_vip=" + vip, "OCF_RESKEY_containers=" + names, "OCF_RESKEY_nic=" + names,
			"OCF_RESKEY_volumes=" + names, "OCF_RESKEY_interval=" + duration, "OCF_RESKEY_max_rpo=" + duration,
			"OCF_RESKEY_stop-timeout=" + duration, "OCF_RESKEY_CRM_meta_timeout=" + ms, "OCF_RESKEY_CRM_meta_interval=" + ms, names, "=" + vip,
		})
		if e.Timeout <= 0 || e.Timeout > longestTimeout || e.Interval < 0 || e.Interval > longestTimeout {
			t.Fatalf("times of %q: %v, %v", ms, e.Timeout, e.Interval)
		}
		spec, problems := e.Spec()
		if spec.Interval <= 0 || spec.MaxRPO <= 0 || spec.StopTimeout < 0 {
			t.Fatalf("durations of %q: %+v", duration, spec)
		}
		for _, v := range spec.VIPs {
			if _, err := readVIP(v); err != nil {
				t.Fatalf("%q gave the address %q: %v", vip, v, err)
			}
		}
		if len(problems) > 0 {
			return
		}
		if !api.ValidServiceName(spec.Service) || strings.ContainsAny(spec.Service, "/\x00") || len(spec.Containers) == 0 {
			t.Fatalf("accepted %+v", spec)
		}
		// What is read reads the same again.
		again := api.Spec{}
		if err := readNames("container", func(s *api.Spec) *[]string { return &s.Containers })(&again, strings.Join(spec.Containers, " ")); err != nil || !cmp.Equal(again.Containers, spec.Containers) {
			t.Fatalf("%q: %v, then %v (%v)", names, spec.Containers, again.Containers, err)
		}
	})
}

// FuzzStat: whatever a process calls itself, its state and start time are found.
func FuzzStat(f *testing.F) {
	f.Add([]byte("sh"), uint64(4242))
	f.Add([]byte("a) S 9) Z 0 1 1"), uint64(17))
	f.Add([]byte("\n((\x00"), uint64(0))
	f.Fuzz(func(t *testing.T, name []byte, want uint64) {
		stat := append(append([]byte("7 ("), name...), ") R 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 "...)
		stat = strconv.AppendUint(stat, want, 10)
		state, start, ok := parseStat(append(stat, " 9 8 7\n"...))
		if !ok || state != 'R' || start != want {
			t.Fatalf("%q: state %c, start %d, %v", stat, state, start, ok)
		}
		parseStat(name) // must not panic
	})
}

// Hooks that would do nothing, or nowhere, are told before the first capture.
func TestHooksTogether(t *testing.T) {
	for _, tt := range []struct{ params, want string }{
		{"consistency=hooks", "before-capture is missing"},
		{"before-capture=db flush", "do nothing with consistency=frozen"},
		{"consistency=none after-capture=db", "a container without a command"},
		{"consistency=hooks before-capture=elsewhere flush", `"elsewhere", which is no container`},
		{"consistency=hooks before-capture=db flush after-capture=web resume", `"web", which is no container`},
		{"consistency=rarely", "none of frozen, hooks, none"},
	} {
		params := []string{"containers=db"}
		for p := range strings.SplitSeq(strings.NewReplacer(" consistency", "\nconsistency", " before", "\nbefore", " after", "\nafter").Replace(tt.params), "\n") {
			params = append(params, p)
		}
		_, problems := specOf(params...)
		if len(problems) != 1 || !strings.Contains(problems[0].Error(), tt.want) {
			t.Errorf("%s: %v, not %q", tt.params, problems, tt.want)
		}
	}
}
