// Package httpapi is the HTTP side of funcd: the routes of the Func API, the runner's endpoints, who may use them, and how errors are
// answered. What the requests mean is left to the interfaces that it declares.
package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/mux"

	"github.com/funcd/funcd/api"
)

// Functions is the life of a function, see package functions for its errors.
type Functions interface {
	Create(ctx context.Context, account string, f api.Function) (api.Function, error)
	Update(ctx context.Context, account, name string, update api.FunctionUpdate) (api.Function, error)
	// Remove removes the function; with force it cancels its calls, else it must have none.
	Remove(ctx context.Context, account, name string, force bool) error
}

// Directory finds functions. Its errors are of code NotFound and Unavailable.
type Directory interface {
	Get(ctx context.Context, account, name string) (api.Definition, error)
	ByUUID(ctx context.Context, uuid string) (api.Definition, error)
	// ByID returns the account's function of this name if it has this internal id.
	ByID(ctx context.Context, account, name, id string) (api.Definition, error)
	// List returns the account's functions, the newest first.
	List(account string) []api.Definition
}

// Calls is the life of a call, see package scheduler for its errors.
type Calls interface {
	Submit(ctx context.Context, d *api.Definition, env []string, payload []byte) (call string, err error)
	// SubmitSync is Submit for a caller who waits. release is called when the answer was delivered or won't be.
	SubmitSync(ctx context.Context, d *api.Definition, env []string, payload []byte) (call string, release func(), err error)
	// SubmitOnce is Submit of a request that may come again: again tells that its call was queued before. The error is of code KeyReused if that
	// was another request.
	SubmitOnce(ctx context.Context, d *api.Definition, once api.Once, env []string, payload []byte) (call string, again bool, err error)
	// Output returns the call's state and its output, with wait after its end. With some errors there is a record too: the call has ended,
	// and the error is its answer.
	Output(ctx context.Context, d *api.Definition, call string, wait bool) (rec api.Record, output []byte, err error)
	// SlotCounts returns how many containers of the function wait for a call. The error is of code NotFound while nobody knows.
	SlotCounts(ctx context.Context, function string) (api.SlotCounts, error)
	// Cancel ends a call. The error is of code Conflict if it has ended by itself.
	Cancel(ctx context.Context, d *api.Definition, call string) error
	// Delivered removes an ended call whose answer has reached its caller.
	Delivered(ctx context.Context, rec api.Record) error
}

// Logs reads the events of a function's calls, each as its JSON. It blocks with Follow, and passes nil before it waits for more. The error is of
// code NotFound if the function was removed meanwhile.
type Logs interface {
	Events(ctx context.Context, function string, q api.EventQuery, yield func(event []byte) error) error
}

// Runners is what a function's container asks for.
type Runners interface {
	// Next waits until ctx ends for the call; the error is of code NotFound then, and Expired if there will be none.
	Next(ctx context.Context, allocation api.Allocation, function, call string) (*api.Assignment, []byte, error)
	// NextSlot waits until ctx ends for any call that a waiting container may have, which Begin then confirms. The errors are those of
	// Next, for Begin Expired if the call is not to be started.
	NextSlot(ctx context.Context, allocation api.Allocation, slot api.Slot) (*api.Assignment, []byte, error)
	Begin(ctx context.Context, allocation api.Allocation, function, call string) error
	// Report ends the call. The error is of code Expired if it is over already, and Cancelled if it is stored, and the container is to end.
	Report(ctx context.Context, allocation api.Allocation, result *api.Result, output []byte) error
}

// Credentials finds a credential by its access key. The errors are of code NotFound and Unavailable.
type Credentials interface {
	Get(ctx context.Context, accessKey string) (api.Credential, error)
}

// Identities tells whose a Nomad identity token is. The errors are of code Unauthorized and Unavailable.
type Identities interface {
	Identify(ctx context.Context, token string) (api.Allocation, error)
}

// Config is what a Server works with. All is required but UnsignedAccount, SignedCalls and RunnerArchive.
type Config struct {
	Functions   Functions
	Directory   Directory
	Calls       Calls
	Logs        Logs
	States      States
	Dead        Dead
	Runners     Runners
	Credentials Credentials
	Identities  Identities
	Images      Images
	Puller      Puller
	Cluster     Cluster
	Jobs        Jobs
	// SignedCalls tells whether calls of the account's functions, their outputs, logs and states, must be signed too; nil if none must.
	SignedCalls func(account string) bool
	// Ready are the parts that must answer for /readyz, by their names, but for those that a request excludes.
	Ready map[string]func(context.Context) error
	// UnsignedAccount is the account of management requests without a signature. Empty: they are refused.
	UnsignedAccount string
	// RunnerArchive is a tar.gz of the runner, for containers that download it. Empty where none does.
	RunnerArchive []byte

	MaxBody   int           // bytes of a request's body, a call's payload
	MaxOutput int           // bytes of a call's output
	BodyTime  time.Duration // in which each 64 KiB of a request's body must come
	PollTime  time.Duration // that a runner's request for a call is held at most
	Version   api.VersionInfo
	Logger    *slog.Logger
}

// Server answers requests. Its handlers may be served by any number of listeners.
type Server struct {
	cfg Config
	log *slog.Logger

	upgraded sync.WaitGroup // connections that no http.Server knows of any more
	draining draining
}

// New returns a Server.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, log: cfg.Logger.With("component", "httpapi"), draining: newDraining()}
}

// handler is a handler whose error is answered by the server.
type handler func(w http.ResponseWriter, r *http.Request) error

// Handler serves the Func API. withRunners adds the runner's endpoints, for containers that dial funcd's address.
func (s *Server) Handler(withRunners bool) http.Handler {
	router := s.router()
	if withRunners {
		s.routeRunners(router)
	}
	s.routeManagement(router, "")
	// Not as a subrouter, which takes a wrong method for a path that is not there.
	s.routeManagement(router, `/v{version:[0-9]+\.[0-9]+}`)
	s.route(router, s.call, "/call/{name}/{uuid}", http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete)
	s.route(router, s.callSync, "/call/{name}/{uuid}/sync", http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete)
	s.route(router, s.cancelCall, "/call/{name}/{uuid}/{call}", http.MethodDelete)
	s.route(router, s.output, "/output/{name}/{uuid}/{call}", http.MethodGet)
	s.route(router, s.outputWait, "/output/{name}/{uuid}/{call}/wait", http.MethodGet)
	s.route(router, s.logs, "/logs/{name}/{uuid}", http.MethodGet)
	s.route(router, s.status, "/status/{name}/{uuid}", http.MethodGet)
	s.route(router, s.healthz, "/healthz", http.MethodGet)
	s.route(router, s.readyz, "/readyz", http.MethodGet)
	s.route(router, s.openapi, "/openapi.json", http.MethodGet)
	return router
}

// RunnerHandler serves the runner's endpoints alone, on the socket that is mounted into containers.
func (s *Server) RunnerHandler() http.Handler {
	router := s.router()
	s.routeRunners(router)
	return router
}

func (s *Server) routeManagement(router *mux.Router, prefix string) {
	s.route(router, s.managed(s.createFunction), prefix+"/funcs/create", http.MethodPost)
	s.route(router, s.managed(s.listFunctions), prefix+"/funcs", http.MethodGet)
	s.route(router, s.managed(s.getFunction), prefix+"/funcs/{name}", http.MethodGet)
	s.route(router, s.managed(s.functionJob), prefix+"/funcs/{name}/job", http.MethodGet) // no call's id is "job"
	s.route(router, s.managed(s.functionOfCall), prefix+"/funcs/call/{call}", http.MethodGet)
	s.route(router, s.managed(s.updateFunction), prefix+"/funcs/{name}", http.MethodPut)
	s.route(router, s.managed(s.removeFunction), prefix+"/funcs/{name}", http.MethodDelete)
	s.routeImages(router, prefix)
	s.routeDead(router, prefix)
	s.route(router, s.managed(s.version), prefix+"/version", http.MethodGet)
}

func (s *Server) routeRunners(router *mux.Router) {
	s.route(router, s.runnerNext, api.RunnerNextPath, http.MethodPost)
	s.route(router, s.runnerBegin, api.RunnerBeginPath, http.MethodPost)
	s.route(router, s.runnerResult, api.RunnerResultPath, http.MethodPost)
	s.route(router, s.runnerBinary, api.RunnerBinaryPath, http.MethodGet, http.MethodHead)
}

func (s *Server) router() *mux.Router {
	router := mux.NewRouter()
	router.UseEncodedPath()
	router.NotFoundHandler = s.answered("", func(http.ResponseWriter, *http.Request) error {
		return api.Errorf(api.NotFound, "page not found")
	})
	router.MethodNotAllowedHandler = s.answered("", func(http.ResponseWriter, *http.Request) error {
		return api.Errorf(api.NotAllowed, "method not allowed")
	})
	return router
}

func (s *Server) route(router *mux.Router, h handler, path string, methods ...string) {
	router.Handle(path, s.answered(path, h)).Methods(methods...)
}

// answered makes an http.Handler of h. It logs requests by their route, as their path may hold a function's UUID, which is a secret.
func (s *Server) answered(route string, h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		if r.ContentLength != 0 {
			// Also of a body that no handler reads: the http.Server does, before it answers.
			setReadDeadline(w, start.Add(s.cfg.BodyTime))
		}
		s.sendElsewhere(w)
		err := h(w, r)
		if err != nil {
			writeError(w, r, err)
		}
		level := slog.LevelDebug
		// A failed call is the function's matter, and its answer a proper one.
		code := api.CodeOf(err)
		if code.Status() >= 500 && code != "" && !code.OfCall() {
			level = slog.LevelError
			if errors.Is(err, context.Canceled) || r.Context().Err() != nil {
				level = slog.LevelDebug // whoever asked has gone
			}
		}
		if s.log.Enabled(r.Context(), level) {
			s.log.Log(r.Context(), level, "request", "method", r.Method, "route", route, "took", time.Since(start), "code", code, "error", err)
		}
	})
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error {
	writeText(w, http.StatusOK, "ok")
	return nil
}

// readyParts returns the parts that /readyz is to ask: all but those that the request excludes, as with Kubernetes. There an unknown name is a warning in the
// answer, which no load balancer reads; here it is an error, of code Invalid.
func (s *Server) readyParts(r *http.Request) (map[string]func(context.Context) error, error) {
	parts := maps.Clone(s.cfg.Ready)
	for _, part := range r.URL.Query()["exclude"] {
		if s.cfg.Ready[part] == nil {
			return nil, api.Errorf(api.Invalid, "exclude: %.100q must be one of %s", part, strings.Join(slices.Sorted(maps.Keys(s.cfg.Ready)), ", "))
		}
		delete(parts, part)
	}
	return parts, nil
}

// readyz asks its parts at once and names those that do not answer. The reasons are api.Error messages, which hold no addresses.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	if s.draining.announced.Err() != nil {
		writeText(w, http.StatusServiceUnavailable, api.MessageOf(errDraining))
		return nil
	}
	parts, err := s.readyParts(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	type answer struct {
		part string
		err  error
	}
	answers := make(chan answer, len(parts))
	for part, ping := range parts {
		go func() { answers <- answer{part, ping(ctx)} }()
	}
	status, text := http.StatusOK, "ready"
	for range parts {
		if a := <-answers; a.err != nil {
			s.log.Debug("not ready", "part", a.part, "error", a.err)
			if status == http.StatusOK {
				status, text = http.StatusServiceUnavailable, "not ready"
			}
			text += "; " + a.part + ": " + api.MessageOf(a.err)
		}
	}
	writeText(w, status, text)
	return nil
}
