package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maxSocket is how long a unix socket's path may be: sun_path holds 108 bytes
// with the final NUL (unix(7)).
const maxSocket = 107

// word reads a name without blanks, slashes or control characters.
func (t *table) word(key, def string) string {
	s, ok := t.text(key, def)
	if !ok {
		return def
	}
	return t.checkWord(key, s, def)
}

func (t *table) mandatoryWord(key, example string) string {
	s, ok := t.text(key, example)
	if !ok {
		t.missing(key, example)
		return ""
	}
	return t.checkWord(key, s, example)
}

func (t *table) checkWord(key, s, example string) string {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' || r == '"' || r == '\'' }
	if s == "" || strings.HasPrefix(s, "-") || strings.ContainsFunc(s, bad) {
		t.problem(key, fmt.Sprintf("write a name without blanks, slashes and quotes, such as %q", example), "%s cannot be %q", t.full(key), s)
		return ""
	}
	return s
}

// missing reports a key that must be there, unless something already said that
// its value is of the wrong kind.
func (t *table) missing(key, example string) {
	if t.has(key) {
		return
	}
	below := ""
	if t.line(key) == 0 {
		below = " below [" + t.name + "]"
	}
	t.problem(key, fmt.Sprintf("write %s = %q%s", key, example, below), "%s is missing", t.full(key))
}

// path reads an absolute path; "/" is not one of ours.
func (t *table) path(key, def string) string {
	if s, ok := t.abs(key, def); ok {
		return s
	}
	return def
}

// abs is path for a key without a default: "", false where there is none.
func (t *table) abs(key, example string) (string, bool) {
	s, ok := t.text(key, example)
	if !ok {
		return "", false
	}
	if !filepath.IsAbs(s) || filepath.Clean(s) == "/" || strings.ContainsRune(s, 0) {
		t.problem(key, fmt.Sprintf("write an absolute path such as %q", example), "%s cannot be %q", t.full(key), s)
		return "", false
	}
	return filepath.Clean(s), true
}

// required reads a path that must be there when need holds; "" when it is not
// there or wrong.
func (t *table) required(key string, need bool, example string) string {
	s, ok := t.abs(key, example)
	if !ok && need {
		t.missing(key, example)
	}
	return s
}

func (t *table) socket(key, def string) string {
	s := t.path(key, def)
	if len(s) > maxSocket {
		t.problem(key, fmt.Sprintf("write a shorter path, such as %q", def), "%s is %d bytes long, and a unix socket's path has at most %d", t.full(key), len(s), maxSocket)
	}
	return s
}

func (t *table) podman(key, def string) string {
	s, ok := t.text(key, def)
	if !ok {
		return def
	}
	path, isUnix := strings.CutPrefix(s, "unix://")
	if !isUnix || !filepath.IsAbs(path) {
		t.problem(key, fmt.Sprintf("write %s = %q", key, def), "%s cannot be %q: Podman is reached over a unix socket of this node", t.full(key), s)
		return def
	}
	return s
}

func (t *table) level(key string, def slog.Level) slog.Level {
	s, ok := t.text(key, "info")
	if !ok {
		return def
	}
	switch s {
	case "debug":
		return slog.LevelDebug
	case "info":
		return slog.LevelInfo
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	t.problem(key, `write one of "debug", "info", "warn", "error"`, "%s cannot be %q", t.full(key), s)
	return def
}

// addrPort reads "ip:port"; host names are refused, for the cluster's own
// traffic must not hang on a name server.
func (t *table) addrPort(key string, need bool, example string) netip.AddrPort {
	s, ok := t.text(key, example)
	if !ok {
		if need {
			t.missing(key, example)
		}
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 || ap.Addr().Is4In6() {
		next := fmt.Sprintf("write an IP address and a port, such as %q", example)
		if a, err := netip.ParseAddr(s); err == nil {
			next = fmt.Sprintf("write the port as well: %q", netip.AddrPortFrom(a.Unmap(), 7946))
		}
		t.problem(key, next, "%s cannot be %q", t.full(key), s)
		return netip.AddrPort{}
	}
	return ap
}

// bind reads this node's own address, which is also the one it tells its peers:
// hence no wildcard.
func (t *table) bind(key string, need bool) netip.AddrPort {
	const example = "198.51.100.1:7946"
	ap := t.addrPort(key, need, example)
	if ap.IsValid() && (ap.Addr().IsUnspecified() || ap.Addr().IsMulticast()) {
		t.problem(key, fmt.Sprintf("write this node's own address on the cluster network, such as %q", example),
			"%s cannot be %s: peers are told this address", t.full(key), ap)
		return netip.AddrPort{}
	}
	return ap
}

// hostName reads what SSH connects to: an address or a name, nothing around it.
func (t *table) hostName(key string) string {
	const example = "198.51.100.2"
	s, ok := t.text(key, example)
	if !ok {
		t.missing(key, example)
		return ""
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return s
	}
	next := fmt.Sprintf("write a host name or an IP address, such as %q; the port goes into ssh_port and the account into ssh.user", example)
	if strings.ContainsAny(s, "@:[]") || t.isBadHost(s) {
		t.problem(key, next, "%s cannot be %q", t.full(key), s)
		return ""
	}
	return s
}

func (*table) isBadHost(s string) bool {
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_'
	}
	return s == "" || len(s) > 253 || s[0] == '-' || strings.ContainsFunc(s, func(r rune) bool { return !ok(r) })
}

func (t *table) port(key string, def int) int {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	n, isNumber := v.(int64)
	if !isNumber || n < 1 || n > 65535 {
		t.problem(key, fmt.Sprintf("write a number from 1 to 65535 without quotes, such as %s = %d", key, def), "%s cannot be %v", t.full(key), show(v))
		return def
	}
	return int(n)
}

// maxCount: a policy that keeps more is a slip of the keyboard.
const maxCount = 10000

// count reads a number of things.
func (t *table) count(key string, def, least int) int {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	n, isNumber := v.(int64)
	if !isNumber || n < int64(least) || n > maxCount {
		t.problem(key, fmt.Sprintf("write a number from %d to %d without quotes, such as %s = %d", least, maxCount, key, def), "%s cannot be %v", t.full(key), show(v))
		return def
	}
	return int(n)
}

// duration reads a time such as "168h"; "0s" is none.
func (t *table) duration(key string, def, least time.Duration) time.Duration {
	s, ok := t.text(key, def.String())
	if !ok {
		return def
	}
	d, err := time.ParseDuration(s)
	if err != nil || d != 0 && d < least {
		t.problem(key, fmt.Sprintf("write a time of at least %s such as %s = %q, or \"0s\" for never", least, key, def), "%s cannot be %q", t.full(key), s)
		return def
	}
	return d
}

// size reads a number of bytes: 65536, or "64KiB", "16MiB", "1GiB".
func (t *table) size(key string, def, least int64) int64 {
	v, ok := t.get(key)
	if !ok {
		return def
	}
	n, ok := v.(int64)
	if s, isText := v.(string); isText {
		n, ok = parseSize(s)
	}
	if !ok || n < least {
		t.problem(key, fmt.Sprintf("write a size of at least %d KiB, such as %s = \"16MiB\"", least>>10, key), "%s cannot be %s", t.full(key), show(v))
		return def
	}
	return n
}

// rate reads a number of bytes, or of bytes per second; 0 says that there is none.
func (t *table) rate(key string, least int64) int64 {
	if v, ok := t.get(key); ok && v == int64(0) {
		return 0
	}
	return t.size(key, 0, least)
}

func parseSize(s string) (int64, bool) {
	shift := 0
	for unit, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30} {
		if rest, ok := strings.CutSuffix(s, unit); ok {
			s, shift = rest, bits
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > 1<<40>>shift {
		return 0, false
	}
	return n << shift, true
}

func show(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(v)
	case int64, float64, bool:
		return fmt.Sprint(v)
	default:
		return kindOf(v)
	}
}
