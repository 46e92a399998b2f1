//go:build integration

// Package test shows what funcd promises on a real stack: its own funcd, Nomad and Consul, on free ports and with data of their own, and
// the machine's Docker. Without one of them it fails.
//
// The tests talk to funcd as its clients do. What a part does by itself is left to that part's own tests.
package test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

var nomadLog = flag.Bool("nomad-log", false, "print Nomad's log too when a test has failed")

// dev is the stack that most tests share: funcd agent --dev, with the Nomad and the Consul that it has started.
var dev *stack

// root is a directory for all that the tests build and write. Its path is short, as that of a Unix socket can't be longer than 107 bytes.
var root string

// images are what the tests run, built by scripts/examples.
var images = []string{"funcd/hello", "funcd/upper", "funcd/fail", "funcd/sleep", "funcd/env", "funcd-test/probe"}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// The tests wait for containers far more than they compute, so more of them may run at a time than there are cores. The quota of calls
	// at once, which they share, is 10.
	if err := flag.Set("test.parallel", "6"); err != nil {
		return failure(err)
	}
	var err error
	if root, err = os.MkdirTemp("/tmp", "fdt-"); err != nil {
		return failure(err)
	}
	code := runPrepared(m)
	if err := os.RemoveAll(root); err != nil {
		return failure(err)
	}
	return code
}

func runPrepared(m *testing.M) int {
	err := prepare()
	if err != nil {
		return failure(err)
	}
	tools, err := roomyTools()
	if err != nil {
		return failure(err)
	}
	// The log of everything, so that a test can show what is not in it.
	if dev, err = start(options{dir: filepath.Join(root, "dev"), config: `log_level = "debug"`, tools: tools}); err != nil {
		return failure(err)
	}
	code := m.Run()

	// The containers of its Nomad must go with it. Their allocations are known only as long as it answers.
	allocations, err := dev.allocations()
	for _, step := range []func() error{
		func() error { return err },
		allDescribed,
		func() error { return dev.stop(syscall.SIGTERM) },
		func() error { return noContainers(allocations) },
		noProcesses,
	} {
		if err := step(); err != nil {
			code = failure(err)
		}
	}
	if code != 0 {
		dev.printLog(os.Stderr)
	}
	return code
}

func failure(err error) int {
	fmt.Fprintln(os.Stderr, "test:", err)
	return 1
}

// prepare builds the programs, and tells what is missing on this machine.
func prepare() error {
	for _, name := range []string{"nomad", "consul"} {
		if _, err := tool(name); err != nil {
			return err
		}
	}
	for _, image := range images {
		if out, err := exec.Command("docker", "image", "inspect", image).CombinedOutput(); err != nil {
			return fmt.Errorf("the tests need Docker and the image %s, run scripts/examples examples/*/ test/probe: %s", image, out)
		}
	}
	for program, build := range map[string]struct {
		args []string
		env  string
	}{
		"funcd":        {[]string{"-race"}, "CGO_ENABLED=1"},
		"funcd-runner": {[]string{"-trimpath", "-ldflags", "-s -w"}, "CGO_ENABLED=0"},
	} {
		args := append([]string{"build", "-o", filepath.Join(root, program)}, build.args...)
		cmd := exec.Command("go", append(args, "./cmd/"+program)...)
		cmd.Dir, cmd.Env = "..", append(os.Environ(), build.env)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s can't be built: %s", program, out)
		}
	}
	return nil
}

// roomyTools makes a directory of tools with a Nomad whose node has room for what all tests run at a time, however few cores the machine has: else slots
// would make way for other tests' calls, and calls wait for other tests' slots. That they do is shown on nodes of their own.
func roomyTools() (dir string, err error) {
	dir = filepath.Join(root, "tools")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	var programs [2]string
	for i, name := range []string{"nomad", "consul"} {
		program, err := tool(name)
		if err != nil {
			return "", err
		}
		if programs[i], err = filepath.Abs(program); err != nil {
			return "", err
		}
	}
	nomad, consul, config := programs[0], programs[1], filepath.Join(dir, "roomy.hcl")
	return dir, errors.Join(
		os.Symlink(consul, filepath.Join(dir, "consul")),
		os.WriteFile(config, []byte("client {\n  cpu_total_compute = 20000\n}\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "nomad"), fmt.Appendf(nil, "#!/bin/sh\nexec '%s' \"$@\" '-config=%s'\n", nomad, config), 0o755),
	)
}

// tool returns the path of nomad or consul, looked for where funcd looks.
func tool(name string) (string, error) {
	if path, err := exec.LookPath(filepath.Join(os.Getenv("FUNCD_TOOLS"), name)); err == nil && os.Getenv("FUNCD_TOOLS") != "" {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("the tests need the program %s on the PATH or in the directory FUNCD_TOOLS, run scripts/setup: %w", name, err)
	}
	return path, nil
}
