package cli

import (
	"context"
	"strings"

	"github.com/funcd/funcd/api"
)

// byAddress is what the help says of the arguments of commands that call.
const byAddress = `

Whose access key may only call names a function NAME/UUID, as its address ends, and a call NAME/UUID/CALL_ID.`

// callable returns the function that an argument names, as NAME, or as NAME/UUID: then it is not asked for, which a call-only key may not.
func (a *app) callable(ctx context.Context, c *api.Client, arg string) (api.Function, error) {
	name, uuid, whole := strings.Cut(arg, "/")
	if !whole {
		return a.function(ctx, c, name)
	}
	if !api.ValidUUID(uuid) {
		return api.Function{}, usageErrorf("%s/…: what follows the name is not the UUID of a function", name) // it may be one with a slip
	}
	return api.Function{Name: name, UUID: uuid}, nil
}

// called returns the function of a call and the call's id, which an argument names as CALL_ID or NAME/UUID/CALL_ID.
func (a *app) called(ctx context.Context, c *api.Client, arg string) (f api.Function, id string, err error) {
	function, id := splitCall(arg)
	if function == "" {
		f, err = c.FunctionOfCall(ctx, id)
		return f, id, noCall(err, id)
	}
	f, err = a.callable(ctx, c, function)
	return f, id, err
}

func splitCall(arg string) (function, id string) {
	at := strings.LastIndexByte(arg, '/')
	return arg[:max(at, 0)], arg[at+1:]
}

// callName is how a command is to name a call of the function.
func callName(f api.Function, id string) string {
	if f.Created.IsZero() { // it was named by its address
		return f.Name + "/UUID/" + id
	}
	return id
}
