package ocf

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// split takes a list apart at commas and spaces.
func split(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' })
}

// readVIPs reads addresses with prefix; they are kept in their canonical form.
func readVIPs(spec *api.Spec, value string) error {
	var vips []string
	var addrs []netip.Addr
	for _, word := range split(value) {
		p, err := readVIP(word)
		if err != nil {
			return err
		}
		if slices.Contains(addrs, p.Addr()) {
			return fmt.Errorf("%s is there twice", p.Addr())
		}
		addrs = append(addrs, p.Addr())
		vips = append(vips, p.String())
	}
	spec.VIPs = vips
	return nil
}

func readVIP(word string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(word); err == nil && a.Zone() == "" {
		usual := 24
		if a.Is6() {
			usual = 64
		}
		return netip.Prefix{}, fmt.Errorf("%s lacks the prefix length of its network, such as %s/%d", word, word, usual)
	}
	p, err := netip.ParsePrefix(word)
	if err != nil {
		return p, fmt.Errorf("%q is not an address with a prefix length", word)
	}
	a := p.Addr()
	switch {
	case a.Is4In6():
		return p, fmt.Errorf("%s is an IPv4 address in IPv6 clothes; write %s", word, a.Unmap())
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return p, fmt.Errorf("%s is not an address that a node can have on a network", word)
	case p.Bits() == 0:
		return p, fmt.Errorf("%s: no network has the prefix length 0", word)
	case a.BitLen()-p.Bits() > 1 && p.Masked().Addr() == a:
		return p, fmt.Errorf("%s is a network; name one of its addresses", word)
	}
	return p, nil
}

// readNIC reads an interface's name, as the kernel bounds it.
func readNIC(spec *api.Spec, value string) error {
	if len(value) > 15 || value == "." || value == ".." || strings.ContainsAny(value, "/ \t\r\n:,") {
		return fmt.Errorf("%q is not an interface's name", value)
	}
	spec.NIC = value
	return nil
}

// readNames reads names as Podman allows them.
func readNames(what string, field func(*api.Spec) *[]string) func(*api.Spec, string) error {
	return readList(what, field, func(name string) error {
		if !isPodmanName(name) {
			return fmt.Errorf("%q is not a %s's name", name, what)
		}
		return nil
	})
}

// readUnits reads file names of quadlet units, without a directory.
func readUnits(field func(*api.Spec) *[]string) func(*api.Spec, string) error {
	endings := []string{".container", ".pod", ".kube"}
	return readList("unit", field, func(name string) error {
		if !slices.Contains(endings, filepath.Ext(name)) || filepath.Base(name) != name {
			return fmt.Errorf("%q is not the name of a quadlet file (%s)", name, strings.Join(endings, ", "))
		}
		return nil
	})
}

// readPaths reads absolute paths.
func readPaths(what string, field func(*api.Spec) *[]string) func(*api.Spec, string) error {
	return readList(what, field, func(name string) error {
		if !filepath.IsAbs(name) || filepath.Clean(name) != name {
			return fmt.Errorf("%q is not an absolute path", name)
		}
		return nil
	})
}

// readList reads a list of words that are all right, each there once.
func readList(what string, field func(*api.Spec) *[]string, check func(word string) error) func(*api.Spec, string) error {
	return func(spec *api.Spec, value string) error {
		var list []string
		for _, word := range split(value) {
			if err := check(word); err != nil {
				return err
			}
			if slices.Contains(list, word) {
				return fmt.Errorf("%s %s is there twice", what, word)
			}
			list = append(list, word)
		}
		if len(list) == 0 {
			return fmt.Errorf("it names no %s", what)
		}
		*field(spec) = list
		return nil
	}
}

func isPodmanName(s string) bool {
	for i, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("_.-", r)) {
			return false
		}
	}
	return s != ""
}

func readDuration(least time.Duration, field func(*api.Spec) *api.Duration) func(*api.Spec, string) error {
	return func(spec *api.Spec, value string) error {
		d, err := ParseDuration(value)
		if err != nil {
			return fmt.Errorf("%q %w", value, err)
		}
		if d < least {
			return fmt.Errorf("%q is too short, %s is the least", value, least)
		}
		*field(spec) = api.Duration(d)
		return nil
	}
}

func readChoice(field func(*api.Spec) *string, choices ...string) func(*api.Spec, string) error {
	return func(spec *api.Spec, value string) error {
		if !slices.Contains(choices, value) {
			return fmt.Errorf("%q is none of %s", value, strings.Join(choices, ", "))
		}
		*field(spec) = value
		return nil
	}
}

func readHook(field func(*api.Spec) *[]string) func(*api.Spec, string) error {
	return func(spec *api.Spec, value string) error {
		words := strings.Fields(value)
		if len(words) == 1 {
			return fmt.Errorf("%q is a container without a command", value)
		}
		*field(spec) = words
		return nil
	}
}
