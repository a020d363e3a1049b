package podman

import (
	"github.com/containers/podman/v5/libpod/define"
	"github.com/containers/podman/v5/pkg/domain/entities"
	"github.com/spf13/pflag"
)

// The flags of `podman run` and `podman create`, in three lists: carried into the
// specification, without effect on the container, and refused with a reason. The
// lists are closed: a flag that is in none of them is refused as unknown.
//
// They are declared here rather than taken from Podman's command package because
// that package reads containers.conf and may exit the process when it is merely
// linked in.

// flagRule is a flag that is not carried. Flags that take no value are bools.
type flagRule struct {
	name, short string
	bool        bool
	why, next   string // refused flags only
}

var flagsWithoutEffect = []flagRule{
	{name: "detach", short: "d", bool: true},
	{name: "quiet", short: "q", bool: true},
	{name: "replace", bool: true},
	{name: "sig-proxy", bool: true},
	{name: "disable-content-trust", bool: true},
	{name: "tls-verify", bool: true},
	{name: "detach-keys"},
	{name: "attach", short: "a"},
	{name: "pull"},
	{name: "authfile"},
	{name: "cert-dir"},
	{name: "creds"},
	{name: "decryption-key"},
	{name: "signature-policy"},
	{name: "retry"},
	{name: "retry-delay"},
	{name: "arch"},
	{name: "os"},
	{name: "variant"},
	{name: "platform"},
	{name: "kernel-memory"},
	{name: "restart"}, // Pacemaker restarts; see Neutralise
}

const (
	nextPlain   = "make the container without it"
	nextEnv     = "give the values themselves: --env NAME=value"
	nextDevices = "make the container without devices of the host"
	nextUsers   = "make the container without a user namespace of its own"
)

var flagsRefused = []flagRule{
	{name: "rm", bool: true, why: "a container that removes itself cannot be kept ready or started again", next: "make it without --rm"},
	{name: "rmi", bool: true, why: "a container that removes its image cannot be started again", next: "make it without --rmi"},
	{name: "rootfs", bool: true, why: "a root file system is not an image that could be shipped", next: "make an image of it"},
	{name: "env-host", bool: true, why: "the environment of this node is not that of the other", next: nextEnv},
	{name: "env-file", why: "the file is on this node only", next: nextEnv},
	{name: "label-file", why: "the file is on this node only", next: "give the labels themselves: --label NAME=value"},
	{name: "pod-id-file", why: "it names a file on this node", next: "name the pod: --pod NAME"},
	{name: "init-ctr", why: "a container that runs before the others of its pod ends before the service has started", next: "make it a container that stays, or do its work in the image"},
	{name: "volumes-from", why: "it mounts what another container mounts", next: "mount the volumes by name: --volume NAME:/path"},
	{name: "requires", why: "dependencies between containers are not carried", next: "name the containers in their order in `containers`"},
	{name: "device", why: "devices differ from node to node", next: nextDevices},
	{name: "device-cgroup-rule", why: "devices differ from node to node", next: nextDevices},
	{name: "device-read-bps", why: "devices differ from node to node", next: nextDevices},
	{name: "device-read-iops", why: "devices differ from node to node", next: nextDevices},
	{name: "device-write-bps", why: "devices differ from node to node", next: nextDevices},
	{name: "device-write-iops", why: "devices differ from node to node", next: nextDevices},
	{name: "blkio-weight-device", why: "devices differ from node to node", next: nextDevices},
	{name: "gpus", why: "devices differ from node to node", next: nextDevices},
	{name: "uidmap", why: "the range of user IDs belongs to the node", next: nextUsers},
	{name: "gidmap", why: "the range of group IDs belongs to the node", next: nextUsers},
	{name: "subuidname", why: "the range of user IDs belongs to the node", next: nextUsers},
	{name: "subgidname", why: "the range of group IDs belongs to the node", next: nextUsers},
	{name: "hostuser", why: "users differ from node to node", next: nextPlain},
	{name: "cidfile", why: "it names a file on this node", next: nextPlain},
	{name: "pidfile", why: "it names a file on this node", next: nextPlain},
	{name: "conmon-pidfile", why: "it names a file on this node", next: nextPlain},
	{name: "hosts-file", why: "it names a file on this node", next: "use --add-host"},
	{name: "init-path", why: "it names a file on this node", next: "use --init alone"},
	{name: "preserve-fds", why: "open files of a shell do not exist on the other node", next: nextPlain},
	{name: "preserve-fd", why: "open files of a shell do not exist on the other node", next: nextPlain},
	{name: "rdt-class", why: "it is configured on this node only", next: nextPlain},
	{name: "cgroup-parent", why: "it is a cgroup of this node", next: nextPlain},
	{name: "storage-opt", why: "it depends on this node's storage", next: nextPlain},
}

// plain are the values of flags that Podman's own commands fetch one by one.
type plain struct {
	env, networks, addHosts, dns, dnsOptions, dnsSearch, publish, aliases []string
	ip, ip6, mac                                                          string
	noHostname, noHosts, passwd                                           bool
	pidsLimit                                                             int64
	oomScoreAdj                                                           int
	imageVolume, entrypoint                                               string
}

// newFlags declares every flag of the three lists, with Podman's own types and
// defaults (slices that split at commas and arrays that do not are different things).
// Those of own come first: of a flag that is in a list as well, they are what it means.
func newFlags(o *entities.ContainerCreateOptions, p *plain, own func(*pflag.FlagSet)) *pflag.FlagSet {
	fs := pflag.NewFlagSet("podman create", pflag.ContinueOnError)
	fs.SetInterspersed(false)
	fs.SetNormalizeFunc(normalise)
	fs.Usage = func() {}
	own(fs)
	containerFlags(fs, o, p)
	resourceFlags(fs, o, p)
	healthFlags(fs, o)
	networkFlags(fs, p)
	for _, list := range [][]flagRule{flagsWithoutEffect, flagsRefused} {
		for _, r := range list {
			if fs.Lookup(r.name) != nil {
				continue
			}
			if r.bool {
				fs.BoolP(r.name, r.short, false, "")
			} else {
				fs.StringArrayP(r.name, r.short, nil, "")
			}
		}
	}
	return fs
}

// normalise knows the other names of flags.
func normalise(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	other := map[string]string{
		"dns-opt": "dns-option", "net": "network",
		"healthcheck-command": "health-cmd", "healthcheck-interval": "health-interval",
		"healthcheck-retries": "health-retries", "healthcheck-timeout": "health-timeout",
		"healthcheck-start-period": "health-start-period",
		"override-arch":            "arch", "override-os": "os", "override-variant": "variant",
	}
	if n, ok := other[name]; ok {
		name = n
	}
	return pflag.NormalizedName(name)
}

func containerFlags(fs *pflag.FlagSet, o *entities.ContainerCreateOptions, p *plain) {
	fs.StringArrayVar(&o.Annotation, "annotation", nil, "")
	fs.StringArrayVarP(&o.Label, "label", "l", nil, "")
	fs.StringArrayVarP(&p.env, "env", "e", nil, "")
	fs.StringArrayVar(&o.EnvMerge, "env-merge", nil, "")
	fs.StringArrayVar(&o.UnsetEnv, "unsetenv", nil, "")
	fs.BoolVar(&o.UnsetEnvAll, "unsetenv-all", false, "")
	fs.BoolVar(&o.HTTPProxy, "http-proxy", true, "")
	fs.StringSliceVar(&o.CapAdd, "cap-add", nil, "")
	fs.StringSliceVar(&o.CapDrop, "cap-drop", nil, "")
	fs.BoolVar(&o.Privileged, "privileged", false, "")
	fs.StringArrayVar(&o.SecurityOpt, "security-opt", nil, "")
	fs.StringVar(&o.SeccompPolicy, "seccomp-policy", "default", "")
	fs.StringVar(&p.entrypoint, "entrypoint", "", "")
	fs.StringVarP(&o.User, "user", "u", "", "")
	fs.StringSliceVar(&o.GroupAdd, "group-add", nil, "")
	fs.StringVarP(&o.Workdir, "workdir", "w", "", "")
	fs.StringVarP(&o.Hostname, "hostname", "h", "", "")
	fs.StringVar(&o.UTS, "uts", "", "")
	fs.StringVar(&o.UserNS, "userns", "", "")
	fs.StringVar(&o.IPC, "ipc", "", "")
	fs.StringVar(&o.PID, "pid", "", "")
	fs.StringVar(&o.CgroupNS, "cgroupns", "", "")
	fs.StringVar(&o.CgroupsMode, "cgroups", "", "")
	fs.BoolVar(&o.Init, "init", false, "")
	fs.BoolVarP(&o.Interactive, "interactive", "i", false, "")
	fs.BoolVarP(&o.TTY, "tty", "t", false, "")
	fs.StringVar(&o.LogDriver, "log-driver", "", "")
	fs.StringArrayVar(&o.LogOptions, "log-opt", nil, "")
	fs.BoolVar(&o.ReadOnly, "read-only", false, "")
	fs.BoolVar(&o.ReadWriteTmpFS, "read-only-tmpfs", true, "")
	fs.StringVar(&o.SdNotifyMode, "sdnotify", define.SdNotifyModeContainer, "")
	fs.StringVar(&o.Systemd, "systemd", "true", "")
	fs.StringVar(&o.StopSignal, "stop-signal", "", "")
	fs.UintVar(&o.StopTimeout, "stop-timeout", 10, "")
	fs.UintVar(&o.Timeout, "timeout", 0, "")
	fs.StringVar(&o.Personality, "personality", "", "")
	fs.StringVar(&o.Timezone, "tz", "", "")
	fs.StringVar(&o.Umask, "umask", "", "")
	fs.StringSliceVar(&o.Sysctl, "sysctl", nil, "")
	fs.StringArrayVar(&o.ChrootDirs, "chrootdirs", nil, "")
	fs.BoolVar(&p.passwd, "passwd", true, "")
	fs.StringVar(&o.PasswdEntry, "passwd-entry", "", "")
	fs.StringVar(&o.GroupEntry, "group-entry", "", "")
	fs.StringArrayVarP(&o.Volume, "volume", "v", nil, "")
	fs.StringArrayVar(&o.Mount, "mount", nil, "")
	fs.StringArrayVar(&o.TmpFS, "tmpfs", nil, "")
	fs.StringVar(&p.imageVolume, "image-volume", "anonymous", "")
	fs.StringArrayVar(&o.Secrets, "secret", nil, "")
}

func resourceFlags(fs *pflag.FlagSet, o *entities.ContainerCreateOptions, p *plain) {
	fs.StringVar(&o.BlkIOWeight, "blkio-weight", "", "")
	fs.StringSliceVar(&o.CgroupConf, "cgroup-conf", nil, "")
	fs.Uint64Var(&o.CPUPeriod, "cpu-period", 0, "")
	fs.Int64Var(&o.CPUQuota, "cpu-quota", 0, "")
	fs.Uint64Var(&o.CPURTPeriod, "cpu-rt-period", 0, "")
	fs.Int64Var(&o.CPURTRuntime, "cpu-rt-runtime", 0, "")
	fs.Uint64VarP(&o.CPUShares, "cpu-shares", "c", 0, "")
	fs.Float64Var(&o.CPUS, "cpus", 0, "")
	fs.StringVar(&o.CPUSetCPUs, "cpuset-cpus", "", "")
	fs.StringVar(&o.CPUSetMems, "cpuset-mems", "", "")
	fs.StringVarP(&o.Memory, "memory", "m", "", "")
	fs.StringVar(&o.MemoryReservation, "memory-reservation", "", "")
	fs.StringVar(&o.MemorySwap, "memory-swap", "", "")
	fs.Int64Var(&o.MemorySwappiness, "memory-swappiness", -1, "")
	fs.BoolVar(&o.OOMKillDisable, "oom-kill-disable", false, "")
	fs.IntVar(&p.oomScoreAdj, "oom-score-adj", 0, "")
	fs.Int64Var(&p.pidsLimit, "pids-limit", 0, "")
	fs.StringVar(&o.ShmSize, "shm-size", "", "")
	fs.StringVar(&o.ShmSizeSystemd, "shm-size-systemd", "", "")
	fs.StringSliceVar(&o.Ulimit, "ulimit", nil, "")
}

func healthFlags(fs *pflag.FlagSet, o *entities.ContainerCreateOptions) {
	fs.BoolVar(&o.NoHealthCheck, "no-healthcheck", false, "")
	fs.StringVar(&o.HealthCmd, "health-cmd", "", "")
	fs.StringVar(&o.HealthInterval, "health-interval", define.DefaultHealthCheckInterval, "")
	fs.StringVar(&o.HealthLogDestination, "health-log-destination", define.DefaultHealthCheckLocalDestination, "")
	fs.UintVar(&o.HealthMaxLogCount, "health-max-log-count", define.DefaultHealthMaxLogCount, "")
	fs.UintVar(&o.HealthMaxLogSize, "health-max-log-size", define.DefaultHealthMaxLogSize, "")
	fs.UintVar(&o.HealthRetries, "health-retries", define.DefaultHealthCheckRetries, "")
	fs.StringVar(&o.HealthStartPeriod, "health-start-period", define.DefaultHealthCheckStartPeriod, "")
	fs.StringVar(&o.HealthTimeout, "health-timeout", define.DefaultHealthCheckTimeout, "")
	fs.StringVar(&o.HealthOnFailure, "health-on-failure", "none", "")
	fs.StringVar(&o.StartupHCCmd, "health-startup-cmd", "", "")
	fs.StringVar(&o.StartupHCInterval, "health-startup-interval", define.DefaultHealthCheckInterval, "")
	fs.UintVar(&o.StartupHCRetries, "health-startup-retries", 0, "")
	fs.UintVar(&o.StartupHCSuccesses, "health-startup-success", 0, "")
	fs.StringVar(&o.StartupHCTimeout, "health-startup-timeout", define.DefaultHealthCheckTimeout, "")
}

func networkFlags(fs *pflag.FlagSet, p *plain) {
	fs.StringSliceVar(&p.addHosts, "add-host", nil, "")
	fs.StringSliceVar(&p.dns, "dns", nil, "")
	fs.StringSliceVar(&p.dnsOptions, "dns-option", nil, "")
	fs.StringSliceVar(&p.dnsSearch, "dns-search", nil, "")
	fs.StringSlice("expose", nil, "")
	fs.StringVar(&p.ip, "ip", "", "")
	fs.StringVar(&p.ip6, "ip6", "", "")
	fs.StringVar(&p.mac, "mac-address", "", "")
	fs.StringArrayVar(&p.networks, "network", nil, "")
	fs.StringSliceVar(&p.aliases, "network-alias", nil, "")
	fs.StringSliceVarP(&p.publish, "publish", "p", nil, "")
	fs.BoolP("publish-all", "P", false, "")
	fs.BoolVar(&p.noHostname, "no-hostname", false, "")
	fs.BoolVar(&p.noHosts, "no-hosts", false, "")
}
