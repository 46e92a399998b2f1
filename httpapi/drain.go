package httpapi

import (
	"context"
	"net/http"

	"github.com/funcd/funcd/api"
)

// draining is how far a server is on its way to its end.
type draining struct {
	announced context.Context // ended by Announce
	announce  context.CancelFunc
	polled    context.Context // ended by EndPolls
	endPolls  context.CancelFunc
}

func newDraining() draining {
	var d draining
	d.announced, d.announce = context.WithCancel(context.Background())
	d.polled, d.endPolls = context.WithCancel(context.Background())
	return d
}

// errDraining is what /readyz says from Announce on.
var errDraining = api.Errorf(api.Unavailable, "the server is stopping")

// Announce has /readyz say that the server is stopping, so that load balancers send it nothing new. All requests are answered as before, and
// each connection is closed after its answer: clients come back through the balancer.
func (s *Server) Announce() { s.draining.announce() }

// sendElsewhere closes the connection after its answer once the end is announced: the next request goes to another server, before this one has closed its listener. It
// is called before an answer is begun, again by who has waited for it.
func (s *Server) sendElsewhere(w http.ResponseWriter) {
	if s.draining.announced.Err() != nil {
		w.Header().Set("Connection", "close")
	}
}

// EndPolls answers the containers that wait for a call with none, now and from then on: they are to ask another server.
func (s *Server) EndPolls() { s.draining.endPolls() }

// poll bounds the wait of a container for a call.
func (s *Server) poll(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PollTime)
	stop := context.AfterFunc(s.draining.polled, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
