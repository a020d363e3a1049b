package gossip

import (
	"context"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"
)

// quiet is how long the same complaint of memberlist is not repeated.
const quiet = time.Minute

// bridge is an io.Writer that turns memberlist's lines ("[WARN] memberlist: text")
// into slog records. memberlist repeats itself for as long as a peer is
// away; a line that differs from an earlier one in numbers only is held back.
type bridge struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	last map[string]time.Time // by text without numbers; guarded by mu
}

func newBridge(log *slog.Logger) *bridge {
	return &bridge{log: log, now: time.Now, last: map[string]time.Time{}}
}

var (
	levels = map[string]slog.Level{
		"DEBUG": slog.LevelDebug,
		"INFO":  slog.LevelDebug, // what matters of it is logged by this package, in its own words
		"WARN":  slog.LevelWarn,
		"ERR":   slog.LevelWarn, // a peer that is away is no error of this node
		"ERROR": slog.LevelWarn,
	}
	numbers = regexp.MustCompile(`[0-9]+`)
)

// Write handles one line, as the log package calls it.
func (b *bridge) Write(p []byte) (int, error) {
	level, text := splitLine(string(p))
	if said(text) {
		level = slog.LevelDebug
	}
	if level > slog.LevelDebug && b.heldBack(text) {
		return len(p), nil
	}
	args := []any{"from", "memberlist"}
	if strings.Contains(text, "no installed keys could decrypt") || strings.Contains(text, "ecrypt") && level > slog.LevelDebug {
		args = append(args, "next", "compare the gossip key files of both nodes; if the sender is of another cluster, give the clusters different ports")
	}
	b.log.Log(context.Background(), level, text, args...)
	return len(p), nil
}

// said tells whether this package says the same itself, better.
func said(text string) bool {
	return strings.HasPrefix(text, "ignoring alive message") || strings.HasPrefix(text, "Conflicting address")
}

func splitLine(line string) (slog.Level, string) {
	line = strings.TrimSpace(line)
	level := slog.LevelInfo
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if name, text, ok := strings.Cut(rest, "]"); ok {
			if l, known := levels[name]; known {
				level, line = l, strings.TrimSpace(text)
			}
		}
	}
	return level, strings.TrimPrefix(line, "memberlist: ")
}

func (b *bridge) heldBack(text string) bool {
	key := numbers.ReplaceAllString(text, "#")
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if t, ok := b.last[key]; ok && now.Sub(t) < quiet {
		return true
	}
	if len(b.last) > 1000 { // keys hold foreign text
		clear(b.last)
	}
	b.last[key] = now
	return false
}
