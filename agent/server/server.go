// Package server is the agent's control socket: HTTP with JSON on a unix socket
// of mode 0600, the only way in for the CLI and the resource agent. Who may open
// the socket is root; there is no other authentication.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/understudy-ha/understudy/agent/api"
)

// maxBody bounds a request: a service's parameters are a few hundred bytes.
const maxBody = 1 << 20

// Agent is what the socket gives access to. Its methods are called from many
// goroutines at once and must end by their context's deadline.
type Agent interface {
	Do(ctx context.Context, service, action string, req api.ActionRequest) (api.ActionResult, error)
	Status() api.Status
	Ready(service string) (api.Readiness, error)
	Replicate(ctx context.Context, service string) (api.ReplicateResult, error)
	// Restore takes the service back to a generation in place; "": an armed restore is forgotten.
	Restore(ctx context.Context, service, generation string) (api.RestoreResult, error)
	// Scrub says how the verification of a service stands, and begins a round where that is asked.
	Scrub(service string, req api.ScrubRequest) (api.ScrubStatus, error)
	Log(q api.LogQuery) ([]api.Decision, error)
	FollowLog(ctx context.Context, q api.LogQuery) <-chan api.Decision
	Version() api.VersionInfo
	// Metrics answers with the node's figures in Prometheus' text format.
	Metrics() http.Handler
}

// Server serves the socket.
type Server struct {
	agent  Agent
	log    *slog.Logger
	socket string
	http   *http.Server
	done   chan error
}

// New prepares a server for the socket's path.
func New(socket string, agent Agent, log *slog.Logger) *Server {
	s := &Server{agent: agent, log: log, socket: socket, done: make(chan error, 1)}
	s.http = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	return s
}

// Start listens and serves until Stop. A socket that a dead agent left is replaced;
// one that answers belongs to a living agent and is an error.
func (s *Server) Start() error {
	if err := os.MkdirAll(filepath.Dir(s.socket), 0o755); err != nil {
		return err
	}
	if c, err := net.DialTimeout("unix", s.socket, time.Second); err == nil {
		return errors.Join(fmt.Errorf("another agent answers on %s: stop it first (systemctl stop understudy)", s.socket), c.Close())
	}
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// The mode must hold from the first moment: bind under another name, then rename.
	temp := s.socket + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(temp, 0o600), os.Rename(temp, s.socket)); err != nil {
		return errors.Join(err, l.Close())
	}
	go func() { s.done <- s.http.Serve(l) }()
	return nil
}

// Stop lets requests under way end within the context, then closes.
func (s *Server) Stop(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	if serr := <-s.done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return errors.Join(err, os.Remove(s.socket))
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, s.agent.Status(), nil) })
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, s.agent.Version(), nil) })
	mux.Handle("GET /metrics", s.agent.Metrics())
	mux.HandleFunc("GET /v1/log", s.logEntries)
	mux.HandleFunc("GET /v1/services/{name}/ready", func(w http.ResponseWriter, r *http.Request) {
		res, err := s.agent.Ready(r.PathValue("name"))
		s.answer(w, res, err)
	})
	mux.HandleFunc("POST /v1/services/{name}/replicate", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := deadline(r)
		defer cancel()
		res, err := s.agent.Replicate(ctx, r.PathValue("name"))
		s.answer(w, res, err)
	})
	mux.HandleFunc("POST /v1/services/{name}/restore", s.restore)
	mux.HandleFunc("POST /v1/services/{name}/scrub", s.scrub)
	mux.HandleFunc("POST /v1/services/{name}/{action}", s.action)
	return mux
}

// action does what the resource agent asks. A client that goes away does not
// cancel it: a promotion half done because Pacemaker's executor was restarted
// would help nobody; the deadline bounds it.
func (s *Server) action(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if !api.ValidServiceName(name) {
		s.answer(w, nil, api.Errorf(api.KindConfigured, "name the resource with letters, digits, '.', '_' and '-'", "%q cannot be a service's name", name))
		return
	}
	var req api.ActionRequest
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	if err := dec.Decode(&req); err != nil {
		s.answer(w, nil, api.Errorf(api.KindArgs, "the resource agent and the agent may be of different versions: install the same on this node", "the request cannot be read: %v", err))
		return
	}
	req.Spec.Service = name
	ctx, cancel := deadline(r)
	defer cancel()
	res, err := s.agent.Do(ctx, name, r.PathValue("action"), req)
	if err != nil {
		s.log.Warn("action failed", "service", name, "action", r.PathValue("action"), "error", err)
	}
	s.answer(w, res, err)
}

// read reads a request's body, or answers that it cannot.
func (s *Server) read(w http.ResponseWriter, r *http.Request, req any) bool {
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(req)
	if err != nil {
		s.answer(w, nil, api.Errorf(api.KindArgs, "install the same understudy everywhere on this node", "the request cannot be read: %v", err))
	}
	return err == nil
}

func (s *Server) scrub(w http.ResponseWriter, r *http.Request) {
	var req api.ScrubRequest
	if s.read(w, r, &req) {
		res, err := s.agent.Scrub(r.PathValue("name"), req)
		s.answer(w, res, err)
	}
}

func (s *Server) restore(w http.ResponseWriter, r *http.Request) {
	var req api.RestoreRequest
	if !s.read(w, r, &req) {
		return
	}
	ctx, cancel := deadline(r)
	defer cancel()
	res, err := s.agent.Restore(ctx, r.PathValue("name"), req.Generation)
	s.answer(w, res, err)
}

// deadline makes the context of a request from its header. It is detached from
// the connection, see action.
func deadline(r *http.Request) (context.Context, context.CancelFunc) {
	ctx := context.WithoutCancel(r.Context())
	ms, err := strconv.ParseInt(r.Header.Get(api.DeadlineHeader), 10, 64)
	if err != nil {
		return context.WithTimeout(ctx, 20*time.Second) // Pacemaker's own default
	}
	return context.WithDeadline(ctx, time.UnixMilli(ms))
}

func (s *Server) logEntries(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	q := api.LogQuery{Service: v.Get("service")}
	var errs []error
	if t := v.Get("since"); t != "" {
		var err error
		q.Since, err = time.Parse(time.RFC3339Nano, t)
		errs = append(errs, err)
	}
	if n := v.Get("limit"); n != "" {
		var err error
		q.Limit, err = strconv.Atoi(n)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		s.answer(w, nil, api.Errorf(api.KindArgs, "since is RFC 3339, limit a number", "bad query: %v", err))
		return
	}
	if v.Get("follow") == "" {
		list, err := s.agent.Log(q)
		if list == nil {
			list = []api.Decision{}
		}
		s.answer(w, list, err)
		return
	}
	s.follow(w, r, q)
}

func (s *Server) follow(w http.ResponseWriter, r *http.Request, q api.LogQuery) {
	rc := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = rc.Flush() // an error here comes back from the first Encode
	for d := range s.agent.FollowLog(r.Context(), q) {
		if enc.Encode(d) != nil || rc.Flush() != nil {
			return // the reader is gone
		}
	}
}

// answer writes a result or a refusal.
func (s *Server) answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
		v = asError(err)
	}
	if werr := json.NewEncoder(w).Encode(v); werr != nil {
		s.log.Debug("the answer could not be written", "error", werr)
	}
}

func asError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		if e.Error() == err.Error() {
			return e
		}
		return &api.Error{Kind: e.Kind, Message: err.Error()}
	}
	kind := api.KindGeneric
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		kind = api.KindDeadline
	}
	return &api.Error{Kind: kind, Message: err.Error(), Next: "see understudy log and journalctl -u understudy"}
}
