package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
)

// cannot is why a setting could not be used.
func cannot(setting, value string, err error) error {
	// What says the value again says no more.
	if listen, ok := errors.AsType[*net.OpError](err); ok && listen.Op == "listen" {
		err = listen.Err
	} else if path, ok := errors.AsType[*fs.PathError](err); ok && path.Path == value {
		err = path.Err
	}
	return fmt.Errorf("%s = %q: %w", setting, value, err)
}

// cannotOpen is why the store of calls could not be opened. A URL may hold a password.
func (c config) cannotOpen(err error) error {
	err = fmt.Errorf("the store of calls can't be opened: %w", err)
	if c.NATS.URL != "" {
		return fmt.Errorf("nats.url: %w", err)
	}
	return cannot("data_dir", c.DataDir, err)
}
