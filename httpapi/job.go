package httpapi

import (
	"net/http"

	"github.com/gorilla/mux"

	"github.com/funcd/funcd/api"
)

// Jobs shows functions as the cluster has them.
type Jobs interface {
	// Job returns a function's job. The error is of code Invalid if it can have none as things are configured now.
	Job(d *api.Definition) (api.JobInspect, error)
}

func (s *Server) functionJob(w http.ResponseWriter, r *http.Request, account string, _ []byte) error {
	d, err := s.cfg.Directory.Get(r.Context(), account, mux.Vars(r)["name"])
	if err != nil {
		return err
	}
	job, err := s.cfg.Jobs.Job(&d)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, job)
	return nil
}
