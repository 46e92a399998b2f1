package httpapi

import (
	_ "embed"
	"net/http"
)

// openAPI describes every route of Handler but the runner's, whose two ends are both funcd's own. A test compares it with the routes.
//
//go:embed openapi.json
var openAPI []byte

func (s *Server) openapi(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI) // whoever asked has gone if this fails
	return nil
}
