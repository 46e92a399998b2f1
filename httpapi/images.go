package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/mux"

	"github.com/funcd/funcd/api"
)

// Images is what is known of images, see package images for its errors.
type Images interface {
	// Inspect describes an image. auth may be nil.
	Inspect(ctx context.Context, account, ref string, auth *api.RegistryAuth) (api.ImageInspect, error)
}

// Puller has the nodes of the cluster pull images.
type Puller interface {
	// Pull returns when all have the image or one has not got it, and tells yield how far they are meanwhile. auth may be nil. An error before the
	// first message is of code Invalid or Unavailable.
	Pull(ctx context.Context, account, image, tag string, auth *api.RegistryAuth, yield func(api.PullMessage) error) error
}

// Cluster tells what the account's functions run on. The error is of code Unavailable.
type Cluster interface {
	Info(ctx context.Context, account string) (api.Info, error)
}

func (s *Server) routeImages(router *mux.Router, prefix string) {
	s.route(router, s.managed(s.pullImage), prefix+"/images/create", http.MethodPost)
	// A reference holds slashes, encoded or not.
	s.route(router, s.managed(s.inspectImage), prefix+"/images/{ref:.+}/json", http.MethodGet)
	s.route(router, s.managed(s.info), prefix+"/info", http.MethodGet)
}

func (s *Server) inspectImage(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	encoded := mux.Vars(r)["ref"]
	ref, err := url.PathUnescape(encoded)
	if err != nil {
		return api.Wrap(api.Invalid, err, "the image's name in the path is not encoded as it should be")
	}
	auth, err := api.ParseRegistryAuth(r.Header.Get(api.RegistryAuthHeader))
	if err != nil {
		return err
	}
	found, err := s.cfg.Images.Inspect(r.Context(), account, ref, auth)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, found)
	return nil
}

func (s *Server) info(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	info, err := s.cfg.Cluster.Info(r.Context(), account)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, info)
	return nil
}

// messageTime is how long a client may take to read a message of a pull before it counts as gone.
const messageTime = time.Minute

// pullImage answers with a line for each message. What fails before the first has a status of its own, what fails later is the last line.
func (s *Server) pullImage(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	query := r.URL.Query()
	if query.Get("fromSrc") != "" {
		return api.Errorf(api.Invalid, "fromSrc: images can't be imported, only pulled with fromImage")
	}
	auth, err := api.ParseRegistryAuth(r.Header.Get(api.RegistryAuthHeader))
	if err != nil {
		return err
	}
	begun := false
	connection := http.NewResponseController(w)
	lines := json.NewEncoder(w)
	write := func(m api.PullMessage) error {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusOK)
		}
		// Not every listener can have it; those of an http.Server can.
		_ = connection.SetWriteDeadline(time.Now().Add(messageTime))
		return errors.Join(lines.Encode(m), connection.Flush())
	}
	defer func() { _ = connection.SetWriteDeadline(time.Time{}) }() // the connection's next answer has none
	err = s.cfg.Puller.Pull(r.Context(), account, query.Get("fromImage"), query.Get("tag"), auth, write)
	if why, ok := errors.AsType[*api.Error](context.Cause(r.Context())); ok && err != nil {
		err = why // the server is stopping
	}
	if err == nil || !begun {
		return err
	}
	level, text := slog.LevelInfo, api.MessageOf(err)
	if api.CodeOf(err) == api.Internal && r.Context().Err() == nil {
		level = slog.LevelError
	}
	s.log.Log(r.Context(), level, "an image was not pulled", "account", account, "error", err)
	// It fails if nobody is there to be told.
	_ = write(api.PullMessage{Error: text, ErrorDetail: &api.PullError{Code: api.CodeOf(err).Status(), Message: text}})
	return nil
}
