package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"github.com/understudy-ha/understudy/replication"
	"github.com/understudy-ha/understudy/replication/durable"
	"github.com/understudy-ha/understudy/replication/store"
)

// Store is what the receiving end needs of a service's store. Each method may
// be called while other processes use the same store; what it returns is
// durable when it returns. The errors are those of package replication.
type Store interface {
	// Dir is the store's directory, IncomingDir where uploads go: on one file system.
	Dir() string
	IncomingDir() string
	State() (replication.State, error)
	// Missing returns those hashes the store has not got, in order.
	Missing(hs []replication.Hash) ([]replication.Hash, error)
	// AcceptPack verifies the file at path and makes it a pack. It consumes the
	// file on success only; a pack that is there already is a success.
	AcceptPack(path string, want replication.Hash) error
	// CommitEncoded commits the manifest in the file at path, which must name id.
	CommitEncoded(path string, id replication.ID) error
	Close() error
}

// ServerOptions of [Serve]. Open is required; the rest has defaults.
type ServerOptions struct {
	// Open gives the store of a service. An error that is not ErrNoService,
	// ErrBadPath or ErrNotFound is the receiver's own failure.
	Open func(service string) (Store, error)
	// Services lists the services there are, for a person who looks; nil: none are shown.
	Services func() ([]string, error)
	// Accepted is called after a commit and after an image was taken in, on the
	// sender's time: it must not block. nil: nobody is told.
	Accepted func(service string)
	Logger   *slog.Logger // nil: discards
	Hook     durable.Hook // tests

	MaxPack      int64         // bytes; 0: 1 GiB
	MaxManifest  int64         // bytes; 0: 256 MiB
	MaxImage     int64         // bytes; 0: 64 GiB
	MaxOpen      int           // files and directories open at once; 0: 64
	MinFree      int64         // bytes the file system keeps free; 0: store.LeastFree, negative: none
	MinFiles     int64         // files that can still be made on it, where that is limited; 0: 1000, negative: none
	StallTimeout time.Duration // an upload without a write is closed; 0: 15 s
	IdleTimeout  time.Duration // a session without a request is ended; 0: 10 min
}

func (o *ServerOptions) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Accepted == nil {
		o.Accepted = func(string) {}
	}
	if o.Services == nil {
		o.Services = func() ([]string, error) { return nil, nil }
	}
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.MaxPack, 1<<30)
	def(&o.MaxManifest, 256<<20)
	def(&o.MaxImage, 64<<30)
	def(&o.MinFree, store.LeastFree)
	def(&o.MinFiles, 1000)
	def((*int64)(&o.StallTimeout), int64(15*time.Second))
	def((*int64)(&o.IdleTimeout), int64(10*time.Minute))
	if o.MaxOpen == 0 {
		o.MaxOpen = 64
	}
}

// Serve answers one sender on rw until it hangs up, ctx ends or it was idle for
// too long, and closes rw. A request that is being worked on is finished first,
// so a commit is never half done because the line was cut.
// The error is nil where the sender hung up.
func Serve(ctx context.Context, rw io.ReadWriteCloser, o ServerOptions) error {
	if o.Open == nil {
		return errors.New("wire.Serve: no Open in the options")
	}
	o.setDefaults()
	s := &session{o: o, stores: map[string]*service{}}
	line := &watched{ReadWriteCloser: rw}
	line.seen.Store(time.Now().UnixNano())

	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { line.watch(ctx, o.IdleTimeout) })

	h := sftp.Handlers{FileGet: s, FilePut: s, FileCmd: s, FileList: s}
	err := sftp.NewRequestServer(line, h, sftp.WithRSMaxTxPacket(maxPacket)).Serve()
	ended := ctx.Err()
	cancel()
	wg.Wait()
	s.close()
	switch {
	case line.idle.Load():
		return fmt.Errorf("no request for %s: the session is over", o.IdleTimeout)
	case ended != nil:
		return ended
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.ErrClosedPipe):
		return nil
	}
	return err
}

// CheckCommand says whether a forced command was asked for what it gives. The
// argument is SSH_ORIGINAL_COMMAND: what our own client runs, the SFTP subsystem
// as sshd_config has it, or nothing. Any other program at the other end (an rsync,
// an old scp, a shell with a command) waits for answers in a language that is not
// spoken here, and is better told so at once: ErrNotAllowed.
func CheckCommand(asked string) error {
	words := strings.Fields(asked)
	if len(words) == 0 {
		return nil
	}
	switch path.Base(words[0]) {
	case "internal-sftp", "sftp-server":
		return nil
	case "understudy":
		if len(words) == 2 && words[1] == "receive" {
			return nil
		}
	}
	return fmt.Errorf("%w: this key can do nothing but SFTP to the store, not %.200q", ErrNotAllowed, asked)
}

// receiveCommand is what a client asks sshd for. With a forced command the peer
// runs that, whatever is asked; without one this is what it should run.
const receiveCommand = "understudy receive"

// maxPacket is the payload of an SFTP packet, bytes: what pkg/sftp takes at
// most is 256 KiB with its header.
const maxPacket = 255 << 10

// watched notes when the other end was last heard of.
type watched struct {
	io.ReadWriteCloser
	seen atomic.Int64 // Unix ns
	idle atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadWriteCloser.Read(p)
	w.seen.Store(time.Now().UnixNano())
	return n, err
}

// watch closes the line when ctx ends, or when nothing was heard for so long.
func (w *watched) watch(ctx context.Context, limit time.Duration) {
	tick := time.NewTicker(max(limit/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = w.Close()
			return
		case now := <-tick.C:
			if now.UnixNano()-w.seen.Load() > int64(limit) {
				w.idle.Store(true)
				_ = w.Close()
				return
			}
		}
	}
}

// session is one sender's connection.
type session struct {
	o    ServerOptions
	open atomic.Int64 // handles

	mu     sync.Mutex // guards stores and their wants
	stores map[string]*service
}

// service is a store as one session sees it.
type service struct {
	Store
	wanted []byte // the answer to the last want
}

// maxServices bounds the stores that one session holds open.
const maxServices = 64

// store opens a service's store once per session.
func (s *session) store(name string) (*service, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sv, ok := s.stores[name]; ok {
		return sv, nil
	}
	if len(s.stores) == maxServices {
		return nil, fmt.Errorf("%w: %d services in one session", ErrTooLarge, maxServices)
	}
	st, err := s.o.Open(name)
	if err != nil {
		return nil, err
	}
	sv := &service{Store: st}
	s.stores[name] = sv
	return sv, nil
}

// acquire counts a handle; the release that comes back is called once.
func (s *session) acquire() (release func(), err error) {
	if s.open.Add(1) > int64(s.o.MaxOpen) {
		s.open.Add(-1)
		return nil, fmt.Errorf("%w: %d files are open in this session", ErrTooLarge, s.o.MaxOpen)
	}
	return sync.OnceFunc(func() { s.open.Add(-1) }), nil
}

func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, sv := range s.stores {
		if err := sv.Close(); err != nil {
			s.o.Logger.Warn("close the store", "service", name, "error", err)
		}
	}
	s.stores = nil
}

// refused logs a refusal and puts it into the form the sender reads.
func (s *session) refused(verb, path string, err error) error {
	if err == nil {
		return nil
	}
	out := refuse(err)
	s.o.Logger.Warn("refused", "verb", verb, "path", oneLine(path), "reason", out.Error())
	return out
}
