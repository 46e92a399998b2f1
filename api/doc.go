// Package api holds what travels between the parts of funcd and between funcd and its clients: the functions, calls, results and
// errors of the Func API, their validation, and the Go client.
//
// It imports nothing else of this project. How these values are stored, scheduled or run is left to the other packages.
package api
