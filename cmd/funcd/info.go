package main

import (
	"bufio"
	"context"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/funcd/funcd/api"
)

// infoTime bounds what /info asks for.
const infoTime = 5 * time.Second

// info is what GET /info answers with.
type info struct {
	fixed     api.Info // what does not change while the server runs
	resources func(ctx context.Context, account string) (api.ClusterResources, error)
	images    func(ctx context.Context) int
	functions func(account string) []api.Definition
}

// newInfo returns what the agent says of itself.
func (a *agent) newInfo() *info {
	v := versionInfo()
	fixed := api.Info{
		ID:                 firstNonEmpty(a.settings.Nomad.Region, "global") + "/" + a.settings.Consul.Service,
		ServerVersion:      v.Version,
		OperatingSystem:    operatingSystem("/etc/os-release"),
		OSType:             v.Os,
		Architecture:       v.Arch,
		KernelVersion:      v.KernelVersion,
		IndexServerAddress: api.IndexServerAddress,
	}
	fixed.Name, _ = os.Hostname()
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		fixed.Architecture = unix.ByteSliceToString(name.Machine[:])
	}
	return &info{fixed: fixed, resources: a.nomad.Resources, images: a.images.Count, functions: a.functions.List}
}

// Info asks Nomad and the local Docker daemon at once. The error is of code Unavailable.
func (i *info) Info(ctx context.Context, account string) (api.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, infoTime)
	defer cancel()
	answer := i.fixed
	var counting sync.WaitGroup
	counting.Go(func() { answer.Images = i.images(ctx) })
	resources, err := i.resources(ctx, account)
	if err != nil {
		cancel()
	}
	counting.Wait()
	if err != nil {
		return api.Info{}, err
	}
	answer.NCPU, answer.MemTotal, answer.Nodes = resources.Cores, resources.Memory, resources.Nodes
	answer.Containers, answer.ContainersRunning = resources.Containers, resources.Running
	answer.Functions = len(i.functions(account))
	answer.SystemTime = time.Now().Format(time.RFC3339Nano)
	return answer, nil
}

// operatingSystem returns the PRETTY_NAME of an os-release file (freedesktop.org, os-release), as Docker does, or Linux.
func operatingSystem(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return "Linux"
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return "Linux"
}
