package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockDataDir makes the directory this process's own until release is called, or the process ends in whatever way. Two servers on one
// store would destroy it.
func lockDataDir(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, cannot("data_dir", dir, err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, cannot("data_dir", dir, err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another funcd uses the data directory %s: give each its own data_dir", dir)
		}
		return nil, cannot("data_dir", dir, fmt.Errorf("it can't be locked: %w", err))
	}
	return func() { file.Close() }, nil
}
