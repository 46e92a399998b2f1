// Package functions is the life of a function: it is created, updated, removed, and repaired where the cluster has lost it. It joins the
// three places that know of a function: the store of definitions, the cluster's jobs, and what is kept of its calls.
//
// What a function may look like is package api's; how each place keeps it is left to the places.
package functions

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/funcd/funcd/api"
)

// Store holds the definitions. Its errors are of code NotFound, Conflict and Unavailable.
type Store interface {
	Create(ctx context.Context, d api.Definition) (api.Definition, error)
	// Update applies change to the latest definition; it may call it more than once.
	Update(ctx context.Context, account, name string, change func(*api.Definition) error) (api.Definition, error)
	// Delete removes the function if it still has this id.
	Delete(ctx context.Context, account, name, id string) error
	Get(ctx context.Context, account, name string) (api.Definition, error)
	// All returns all functions from memory, Stored those that are stored now, or none if it can't be sure of all.
	All() []api.Definition
	Stored(ctx context.Context) ([]api.Definition, error)
}

// Cluster holds a job for each function. Its errors are of code Invalid and Unavailable.
type Cluster interface {
	// Ping tells whether the cluster answers.
	Ping(ctx context.Context) error
	// Prepare checks that the cluster can run the function, and notes in d what it has to be known of the cluster for that.
	Prepare(ctx context.Context, d *api.Definition) error
	Register(ctx context.Context, d *api.Definition) error
	// Remove removes the job of the function with this id and those of its calls. It is no error if they are gone.
	Remove(ctx context.Context, account, name, id string) error
	// FunctionJobs returns the jobs of all functions.
	FunctionJobs(ctx context.Context) ([]api.FunctionJob, error)
	// Drifted tells whether the function's job is another than Register would make.
	Drifted(ctx context.Context, d *api.Definition) (bool, error)
}

// Images looks images up, with the account's logins. An image that can't be used is an error of code Invalid that says why.
type Images interface {
	Resolve(ctx context.Context, account, ref string) (api.Image, error)
	// ResolveFromRegistry does not ask the local Docker daemon, so that a tag that was pushed again is seen.
	ResolveFromRegistry(ctx context.Context, account, ref string) (api.Image, error)
}

// Calls is what is kept of a function's calls. Its errors are of code Unavailable.
type Calls interface {
	// InFlight returns how many calls of the function have not ended.
	InFlight(ctx context.Context, account, function string) (int, error)
	// RemoveFunction drops all that is kept of the function's calls.
	RemoveFunction(ctx context.Context, function string) error
	// Functions returns the ids of those of whose calls something is kept, and Status how many they are.
	Functions(ctx context.Context) ([]string, error)
	Status(ctx context.Context, function string) (api.Status, error)
}

// Canceller cancels calls.
type Canceller interface {
	// CancelAll cancels all calls of the function that have not ended. The error is of code Unavailable.
	CancelAll(ctx context.Context, account, function string) error
}

// Config is what a Service works with. All of it is required but Callback.
type Config struct {
	Store   Store
	Cluster Cluster
	Images  Images
	Calls   Calls
	Cancel  Canceller
	// Policy is what an account's new functions may ask for.
	Policy func(account string) api.Policy
	// Callback refuses the URL of a callback that will never be sent, with an error of code Forbidden; nil if there is none.
	Callback func(target string) error
	// StopTime is how long a call that was cancelled may take to end: at most the time between a function's StopSignal and SIGKILL.
	StopTime time.Duration
	// OrphanTime is for how long a function must have been unknown before what is left of it is removed.
	OrphanTime time.Duration
	Logger     *slog.Logger
}

// Service does what the management endpoints ask for. It may be used from any goroutine.
type Service struct {
	cfg    Config
	log    *slog.Logger
	upkeep upkeep
}

// New returns a Service.
func New(cfg Config) *Service {
	return &Service{cfg: cfg, log: cfg.Logger.With("component", "functions"), upkeep: upkeep{checked: map[string]uint64{}}}
}

// undoTime is for taking back what was done, when a later step has failed or its caller has gone.
const undoTime = 15 * time.Second

// Create makes the function the account's. It has a job in the cluster when this returns, so that its first call starts at once. After an
// error nothing of it is left. The error is of code Invalid, Forbidden, Conflict if the account has one of that name, or Unavailable.
func (s *Service) Create(ctx context.Context, account string, f api.Function) (api.Function, error) {
	if err := s.cfg.Policy(account).Check(&f, account); err != nil {
		return api.Function{}, err
	}
	if e, err := f.Extensions(); err == nil && e.Calls.Callback != "" && s.cfg.Callback != nil {
		if err := s.cfg.Callback(e.Calls.Callback); err != nil {
			return api.Function{}, err
		}
	}
	// The name is checked first: an image may have to be asked for across the world.
	if _, err := s.cfg.Store.Get(ctx, account, f.Name); err == nil {
		return api.Function{}, api.Errorf(api.Conflict, "the name %q is already in use", f.Name)
	} else if api.CodeOf(err) != api.NotFound {
		return api.Function{}, err
	}
	image, err := s.cfg.Images.Resolve(ctx, account, f.Config.Image)
	if api.CodeOf(err) == api.Invalid {
		err = api.Wrap(api.Invalid, err, "Config.Image: "+api.MessageOf(err)) // as all of what is wrong with a function names the field
	}
	if err != nil {
		return api.Function{}, err
	}
	f.UUID = uuid.NewString()
	if e, err := f.Extensions(); err == nil && e.Calls.Callback != "" {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // it never fails
		f.CallbackSecret = api.CallbackSecret(key)
	}
	f.Created = api.Timestamp{Time: time.Now().UTC().Truncate(time.Millisecond)}
	d := api.Definition{ID: strings.ReplaceAll(uuid.NewString(), "-", ""), Account: account, Revision: 1, Function: f, Image: image}
	if err := checkCommand(&d); err != nil {
		return api.Function{}, err
	}
	if err := s.cfg.Cluster.Prepare(ctx, &d); err != nil {
		return api.Function{}, err
	}
	d, err = s.cfg.Store.Create(ctx, d)
	if err != nil {
		return api.Function{}, err
	}
	if err := s.cfg.Cluster.Register(ctx, &d); err != nil {
		s.undoCreate(ctx, d)
		return api.Function{}, err
	}
	s.log.Info("a function was created", "function", d.ID, "account", account, "name", f.Name, "image", image.Ref)
	return d.Function, nil
}

// checkCommand checks that there is something to run. The error is of code Invalid.
func checkCommand(d *api.Definition) error {
	if len(d.Command()) == 0 && len(d.Function.Config.Entrypoint) > 0 {
		return api.Errorf(api.Invalid, "Config.Cmd: is required, as Config.Entrypoint leaves out the image's own command")
	} else if len(d.Command()) == 0 {
		return api.Errorf(api.Invalid, "Config.Cmd: is required, as image %s has no command of its own", d.Function.Config.Image)
	}
	return nil
}

func (s *Service) undoCreate(ctx context.Context, d api.Definition) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if err := s.cfg.Store.Delete(ctx, d.Account, d.Function.Name, d.ID); err != nil {
		s.log.Error("a function that could not be registered is left behind", "function", d.ID, "error", err)
		return
	}
	// The answer to the registration may have been lost, not the registration.
	if err := s.cfg.Cluster.Remove(ctx, d.Account, d.Function.Name, d.ID); err != nil {
		s.log.Warn("the job of a function that was not created may be left behind", "function", d.ID, "error", err)
	}
}

// Update changes the function and its job. Calls that have a container finish with what they were started with. After an error the
// function is as it was; one while the cluster is away leaves its revision too, so that the containers that wait for its calls still are of use. The error is of
// code NotFound or Invalid, also while the cluster is away, or Unavailable.
func (s *Service) Update(ctx context.Context, account, name string, update api.FunctionUpdate) (api.Function, error) {
	known, err := s.cfg.Store.Get(ctx, account, name)
	if err != nil {
		return api.Function{}, err
	}
	// What is wrong with the update is said before a registry or the cluster is asked.
	if _, err := update.Apply(known.Function); err != nil {
		return api.Function{}, err
	}
	if update.Pull {
		if known.Image, err = s.resolveAgain(ctx, &known); err != nil {
			return api.Function{}, err
		}
		if err := checkCommand(&known); err != nil {
			return api.Function{}, err
		}
	}
	if err := s.cfg.Cluster.Ping(ctx); err != nil {
		return api.Function{}, err
	}
	var before api.Definition
	d, err := s.cfg.Store.Update(ctx, account, name, func(d *api.Definition) error {
		before = *d
		f, err := update.Apply(d.Function)
		if err != nil {
			return err
		}
		if update.Refresh {
			f.UUID = uuid.NewString()
		}
		d.Function = f
		if !update.Pull {
			return nil
		}
		if d.ID != known.ID {
			return api.Errorf(api.NotFound, "the function %s was removed meanwhile, and another created", name)
		}
		d.Image = known.Image
		return checkCommand(d)
	})
	if err != nil {
		return api.Function{}, err
	}
	if err := s.cfg.Cluster.Register(ctx, &d); err != nil {
		s.undoUpdate(ctx, before, d)
		return api.Function{}, err
	}
	return d.Function, nil
}

// resolveAgain returns what the function's image stands for now.
func (s *Service) resolveAgain(ctx context.Context, d *api.Definition) (api.Image, error) {
	resolve := s.cfg.Images.ResolveFromRegistry
	if d.Image.Local {
		// No registry had it. It may have been built again, or pushed, which the daemon knows too.
		resolve = s.cfg.Images.Resolve
	}
	return resolve(ctx, d.Account, d.Function.Config.Image)
}

// undoUpdate takes an update back that the cluster has refused, or did not answer to. It is a change like any other, with a revision of its own: containers
// may have been started with the one that is taken back.
func (s *Service) undoUpdate(ctx context.Context, before, after api.Definition) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	undone, err := s.cfg.Store.Update(ctx, after.Account, after.Function.Name, func(d *api.Definition) error {
		if d.ID != after.ID || d.Revision != after.Revision {
			return api.Errorf(api.Conflict, "it has changed again")
		}
		d.Function, d.Image = before.Function, before.Image
		return nil
	})
	if err != nil {
		s.log.Error("an update that could not be registered stays", "function", after.ID, "error", err)
		return
	}
	// Its job may be that of the update, of which only the answer was lost.
	if err := s.cfg.Cluster.Register(ctx, &undone); err != nil {
		s.log.Warn("the job of a function whose update was taken back is registered later", "function", after.ID, "error", err)
	}
}
