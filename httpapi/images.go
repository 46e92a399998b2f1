package httpapi

import (
	"context"
	"net/http"
	"net/url"

	"github.com/gorilla/mux"

	"github.com/funcd/funcd/api"
)

// Images is what is known of images, see package images for its errors.
type Images interface {
	// Inspect describes an image. auth may be nil.
	Inspect(ctx context.Context, account, ref string, auth *api.RegistryAuth) (api.ImageInspect, error)
}

// Cluster tells what the account's functions run on. The error is of code Unavailable.
type Cluster interface {
	Info(ctx context.Context, account string) (api.Info, error)
}

func (s *Server) routeImages(router *mux.Router) {
	// A reference holds slashes, encoded or not.
	s.route(router, s.managed(s.inspectImage), "/images/{ref:.+}/json", http.MethodGet)
	s.route(router, s.managed(s.info), "/info", http.MethodGet)
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
