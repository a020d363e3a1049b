package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/agent/api"
	"github.com/understudy-ha/understudy/replication/store"
	"github.com/understudy-ha/understudy/replication/wire"
)

// receiveCommand is the forced command of a peer's SSH key. Standard output is
// the SFTP stream, so nothing else may ever be written there.
func receiveCommand() *cobra.Command {
	var root, socket string
	c := &cobra.Command{
		Use:   "receive",
		Short: "Take generations from a peer (the forced command of its SSH key)",
		Long: `Take generations and images from a peer, over SFTP on standard input and output.

It is not run by hand: it is the one thing a peer's SSH key can do. The peer's
key goes into ~understudy/.ssh/authorized_keys as

    restrict,command="understudy receive" ssh-ed25519 AAAA... understudy@n1

What a peer sends is added to the store after it was verified. Nothing a peer
says removes or changes what is there; what is refused is logged with its reason
here and there. To look at the store, and read why something is refused:

    sftp -s /sftp-server -i KEY understudy@n2`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return receive(c.Context(), root, socket)
		},
	}
	c.Flags().StringVar(&root, "store", api.DefaultStore, "root of the stores")
	c.Flags().StringVar(&socket, "notify", filepath.Join(api.RunDir, "commit.sock"), "the agent's socket that hears of commits")
	return c
}

// receive serves one peer until it hangs up.
func receive(ctx context.Context, root, socket string) error {
	if st, err := os.Stdin.Stat(); err == nil && st.Mode()&fs.ModeCharDevice != 0 {
		return errors.New("receive speaks SFTP with a peer and is started by sshd; put it into authorized_keys (see --help)")
	}
	defer tendHeap()()
	// The agent (root) and this program (understudy) share the store through its group.
	syscall.Umask(0o007)
	// A peer that goes away in the middle of an answer must not kill a commit.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()

	log := receiveLogger()
	if err := wire.CheckCommand(os.Getenv("SSH_ORIGINAL_COMMAND")); err != nil {
		log.Warn("refused", "reason", err.Error())
		return err
	}
	begun := time.Now()
	log.Info("a peer connected")
	err := wire.Serve(ctx, newStdio(), wire.ServerOptions{
		Open: func(service string) (wire.Store, error) { return openStore(root, service, log) },
		Services: func() ([]string, error) {
			return services(root)
		},
		Accepted: func(service string) { wire.Poke(socket, service) },
		Logger:   log,
	})
	log.Info("the peer is gone", "after", time.Since(begun).Round(time.Millisecond), "error", err)
	return err
}

// openStore opens a store that the agent has made. A sender cannot make one:
// which services a node stands by for is decided by its cluster.
func openStore(root, service string, log *slog.Logger) (wire.Store, error) {
	if err := store.ValidName("service", service); err != nil {
		return nil, err
	}
	st, err := os.Lstat(filepath.Join(root, "services", service))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !st.IsDir() {
		return nil, fmt.Errorf("%w: this node has no store of %s; it gets one when Pacemaker starts the service here", wire.ErrNoService, service)
	}
	if err != nil {
		return nil, err
	}
	return store.Open(root, service, store.Options{Logger: log})
}

// services lists the stores there are.
func services(root string) ([]string, error) {
	es, err := os.ReadDir(filepath.Join(root, "services"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range es {
		if e.IsDir() && store.ValidName("service", e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// receiveLogger logs to the journal, and warnings to standard error too: sshd
// carries that to the peer, whose log then has the reason of a refusal as well.
func receiveLogger() *slog.Logger {
	handlers := []slog.Handler{slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})}
	if journal.Enabled() {
		handlers = append(handlers, &journalHandler{})
	}
	from, _, _ := strings.Cut(os.Getenv("SSH_CONNECTION"), " ")
	return slog.New(slog.NewMultiHandler(handlers...)).With("from", from)
}

// journalHandler writes one journal entry per record, attributes as text.
type journalHandler struct {
	with []func(slog.Handler) slog.Handler
}

func (*journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (j *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	var line bytes.Buffer
	drop := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{} // the journal has its own
		}
		return a
	}
	var h slog.Handler = slog.NewTextHandler(&line, &slog.HandlerOptions{ReplaceAttr: drop})
	for _, w := range j.with {
		h = w(h)
	}
	if err := h.Handle(ctx, r); err != nil {
		return err
	}
	priority := journal.PriInfo
	switch {
	case r.Level >= slog.LevelError:
		priority = journal.PriErr
	case r.Level >= slog.LevelWarn:
		priority = journal.PriWarning
	}
	return journal.Send(strings.TrimSpace(line.String()), priority, map[string]string{"SYSLOG_IDENTIFIER": "understudy-receive"})
}

func (j *journalHandler) and(w func(slog.Handler) slog.Handler) slog.Handler {
	return &journalHandler{with: append(j.with[:len(j.with):len(j.with)], w)}
}

func (j *journalHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return j.and(func(h slog.Handler) slog.Handler { return h.WithAttrs(as) })
}

func (j *journalHandler) WithGroup(name string) slog.Handler {
	return j.and(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

// stdio is standard input and output as one connection. They are opened anew as
// non-blocking files, so that Close ends a Read that waits.
type stdio struct{ in, out *os.File }

func newStdio() *stdio {
	again := func(fd int, name string) *os.File {
		_ = syscall.SetNonblock(fd, true)
		return os.NewFile(uintptr(fd), name)
	}
	return &stdio{in: again(syscall.Stdin, "stdin"), out: again(syscall.Stdout, "stdout")}
}

func (s *stdio) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *stdio) Write(p []byte) (int, error) { return s.out.Write(p) }

func (s *stdio) Close() error { return errors.Join(s.in.Close(), s.out.Close()) }
