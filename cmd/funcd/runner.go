package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/funcd/funcd/jobs"
)

// preparedRunner is the runner where containers get it from.
type preparedRunner struct {
	job     jobs.Runner
	archive []byte // for containers that download it
}

// maxSocketPath is how long the path of a Unix socket may be, in bytes: sun_path has 108 and ends with a 0 (unix(7)).
const maxSocketPath = 107

// prepareRunner puts the runner into the directory that is mounted, or into an archive.
func prepareRunner(s *settings) (*preparedRunner, error) {
	program, err := os.ReadFile(s.Runner.Path)
	if err != nil {
		return nil, cannot("runner.path", s.Runner.Path, err)
	}
	if s.Runner.Mode == runnerHTTP {
		archive, err := pack(program)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(archive)
		r := &preparedRunner{archive: archive, job: jobs.Runner{URL: s.Runner.Address, ArchiveSHA256: hex.EncodeToString(sum[:]), Patience: s.patience}}
		if strings.HasPrefix(s.Runner.Address, "https://") {
			authorities, err := os.ReadFile(s.Runner.CAFile)
			if err != nil {
				return nil, cannot("runner.ca_file", s.Runner.CAFile, err)
			}
			if !x509.NewCertPool().AppendCertsFromPEM(authorities) {
				return nil, fmt.Errorf("runner.ca_file: %s holds no certificate in PEM", s.Runner.CAFile)
			}
			r.job.CACert = string(authorities)
		}
		return r, nil
	}
	dir, err := filepath.Abs(s.Runner.SocketDir)
	if socket := filepath.Join(dir, jobs.SocketFile); err == nil && len(socket) > maxSocketPath {
		err = fmt.Errorf("the path of the socket in it, %s, has %d bytes and may have %d", socket, len(socket), maxSocketPath)
	}
	if err == nil {
		err = install(program, dir)
	}
	if err != nil {
		return nil, cannot("runner.socket_dir", s.Runner.SocketDir, err)
	}
	return &preparedRunner{job: jobs.Runner{SocketDir: dir, Patience: s.patience}}, nil
}

// install puts the program into the directory that is mounted.
func install(program []byte, dir string) error {
	// Containers run as any user: all may enter and execute. What may be done over the socket is decided by the token.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name := filepath.Join(dir, jobs.RunnerFile)
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, program) {
		// A disk that is full has no room for another one.
		return errors.Join(os.Chmod(dir, 0o755), os.Chmod(name, 0o755))
	}
	// The old one may be running in containers, and can't be written to: a new file takes its name.
	temporary := name + ".new"
	if err := os.WriteFile(temporary, program, 0o755); err != nil {
		return err
	}
	// A umask takes away what others need.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(temporary, 0o755)); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}

// pack makes a tar.gz, as an artifact keeps a file's permission to be executed only within an archive. It is the same each time for the same program.
func pack(program []byte) ([]byte, error) {
	var archive bytes.Buffer
	// A server is to start at once, on a busy machine too: the default level makes it a tenth smaller, and takes up to five times as long.
	gz, err := gzip.NewWriterLevel(&archive, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	tw := tar.NewWriter(gz)
	if err := tw.WriteHeader(&tar.Header{Name: jobs.RunnerFile, Mode: 0o755, Size: int64(len(program))}); err != nil {
		return nil, err
	}
	if _, err := tw.Write(program); err != nil {
		return nil, err
	}
	if err := errors.Join(tw.Close(), gz.Close()); err != nil {
		return nil, err
	}
	return archive.Bytes(), nil
}

// listen opens the socket in the mounted directory, in place of one that an earlier server has left.
func (r *preparedRunner) listen() (net.Listener, error) {
	path := filepath.Join(r.job.SocketDir, jobs.SocketFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}
