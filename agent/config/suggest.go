package config

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// places says in which table each key belongs, for keys put into another one.
var places = map[string]string{
	"bind": "[gossip]", "known_hosts": "[ssh]", "user": "[ssh]", "address": "[[peer]]",
	"ssh_port": "[[peer]]", "name": "[[peer]]", "journal_size": "[limits]", "bandwidth": "[limits]", "unused_images": "[limits]",
	"keep_last": "[retention]", "hourly": "[retention]", "daily": "[retention]", "weekly": "[retention]", "spare": "[retention]",
	"rate": "[scrub]", "every": "[scrub]",
	"node": "the top, before the first table", "store": "the top, before the first table",
	"socket": "the top, before the first table", "podman": "the top, before the first table",
	"log_level": "the top, before the first table",
}

// serviceKeys are parameters of a service that people look for here.
var serviceKeys = map[string]bool{
	"vip": true, "nic": true, "containers": true, "volumes": true, "interval": true, "max_rpo": true,
	"freeze_max": true, "stop_timeout": true, "on_unhealthy": true, "vip_conflict": true, "service": true,
}

// instead says what to do about a key that this table does not have.
func (t *table) instead(key string) string {
	if best := nearest(key, t.known); best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	plain := strings.ReplaceAll(key, "-", "_")
	if place, ok := places[plain]; ok {
		return fmt.Sprintf("move it to %s", place)
	}
	if serviceKeys[plain] {
		return "remove it: services are defined in the cluster, with `pcs resource create NAME ocf:understudy:service`"
	}
	known := append([]string(nil), t.known...)
	sort.Strings(known)
	return "remove it; known here: " + strings.Join(slices.Compact(known), ", ")
}

// nearest finds the known key that key is a slip of, or "".
func nearest(key string, known []string) string {
	plain := func(s string) string {
		return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s))
	}
	best, least := "", 1+max(1, len(key)/3)
	for _, k := range known {
		if d := distance(plain(key), plain(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is Levenshtein's, with a swap of neighbours as one step. Keys longer
// than any of ours are not compared: the cost is the product of the lengths.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return len(a) + len(b)
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
