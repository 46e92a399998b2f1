package jobs

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
)

// KeepVariable is the environment variable that tells the runner which folders are volumes, as a JSON array: what is in them is not the
// container's, and stays when a container is reused.
const KeepVariable = "FUNCD_KEEP"

// dockerSockets is where Docker's socket is on a client. Who has it has the client.
var dockerSockets = []string{"/var/run/docker.sock", "/run/docker.sock"}

// HoldsDockerSocket tells whether Docker's socket is below a directory of a client, or is what the path names.
func HoldsDockerSocket(hostPath string) bool {
	return slices.ContainsFunc(dockerSockets, func(socket string) bool { return within(path.Clean("/"+hostPath), socket) })
}

// within tells whether a clean path is below dir, or dir itself.
func within(dir, p string) bool { return dir == "/" || p == dir || strings.HasPrefix(p, dir+"/") }

// VolumesOf returns the host and CSI volumes that the job's tasks mount, in the order of their destinations, read-only if that is asked for. The error is of
// code Invalid if there are none, or some that a function's container can't have.
func VolumesOf(job *nomad.Job, readOnly bool) ([]api.Volume, error) {
	refuse := func(format string, args ...any) ([]api.Volume, error) {
		return nil, api.Errorf(api.Invalid, "HostConfig.VolumesFrom: job %s "+format, append([]any{*job.ID}, args...)...)
	}
	volumes := map[string]api.Volume{}
	for _, group := range job.TaskGroups {
		for _, task := range group.Tasks {
			for _, m := range task.VolumeMounts {
				request := group.Volumes[*m.Volume]
				if request == nil || request.Type != "host" && request.Type != "csi" {
					return refuse("mounts a volume that is neither host nor csi")
				}
				v := volume(request, m, readOnly)
				if other, ok := volumes[v.Destination]; ok && (other.Source != v.Source || other.Type != v.Type) {
					return refuse("mounts two volumes at %.300q", v.Destination)
				} else if ok {
					v.ReadOnly = v.ReadOnly && other.ReadOnly
				}
				volumes[v.Destination] = v
			}
		}
	}
	if len(volumes) == 0 {
		return refuse("mounts no host or CSI volume")
	}
	var list []api.Volume
	for _, destination := range slices.Sorted(maps.Keys(volumes)) {
		list = append(list, volumes[destination])
	}
	return list, nil
}

func volume(request *nomad.VolumeRequest, m *nomad.VolumeMount, readOnly bool) api.Volume {
	v := api.Volume{
		Type:        request.Type,
		Source:      request.Source,
		Destination: path.Clean("/" + *m.Destination),
		ReadOnly:    readOnly || request.ReadOnly || m.ReadOnly != nil && *m.ReadOnly,
		Request: api.VolumeRequest{
			ReadOnly:       request.ReadOnly,
			PerAlloc:       request.PerAlloc,
			AccessMode:     request.AccessMode,
			AttachmentMode: request.AttachmentMode,
		},
	}
	// A host volume is claimed as the job claims it, and mounted read-only: it need not offer readers a claim of their own. For a CSI volume to read is
	// another claim, which may be had beside that of a writer.
	if request.Type == "csi" && v.ReadOnly {
		v.Request.ReadOnly = true
	}
	if request.MountOptions != nil {
		v.Request.FSType, v.Request.MountFlags = request.MountOptions.FSType, slices.Clone(request.MountOptions.MountFlags)
	}
	if m.SELinuxLabel != nil {
		v.Request.SELinuxLabel = *m.SELinuxLabel
	}
	return v
}

// CheckVolumes refuses volumes that would be in each other's way, or in that of what is in every container. The error is of code Invalid.
func CheckVolumes(volumes []api.Volume) error {
	for i, v := range volumes {
		for _, other := range volumes[:i] {
			if other.Destination == v.Destination {
				return api.Errorf(api.Invalid, "HostConfig.VolumesFrom: two volumes are to be at %.300q", v.Destination)
			}
		}
		for _, reserved := range []string{MountPoint, "/local", "/alloc", "/secrets", "/proc", "/sys", "/dev", "/etc/hosts"} {
			if within(v.Destination, reserved) || within(reserved, v.Destination) && v.Destination != "/dev/shm" {
				return api.Errorf(api.Invalid, "HostConfig.VolumesFrom: a volume can't be at %.300q, as %s is there in every function's container", v.Destination, reserved)
			}
		}
		if path.Base(v.Destination) == path.Base(dockerSockets[0]) {
			return api.Errorf(api.Invalid, "HostConfig.VolumesFrom: %.300q is Docker's socket, which no function may have", v.Destination)
		}
		if api.Interpolated(v.Destination) || api.Interpolated(v.Source) {
			return api.Errorf(api.Invalid, "HostConfig.VolumesFrom: the volume %.300q at %.300q has another name for each of its job's allocations", v.Source, v.Destination)
		}
	}
	return nil
}

// mount gives the container the function's volumes. The call is placed where they are.
func mount(d *api.Definition, group *nomad.TaskGroup, task *nomad.Task) error {
	if len(d.Volumes) == 0 {
		return nil
	}
	if err := CheckVolumes(d.Volumes); err != nil {
		return err
	}
	group.Volumes = map[string]*nomad.VolumeRequest{}
	var destinations []string
	for i, v := range d.Volumes {
		request := &nomad.VolumeRequest{
			Name:           fmt.Sprintf("v%d", i+1),
			Type:           v.Type,
			Source:         v.Source,
			ReadOnly:       v.Request.ReadOnly,
			PerAlloc:       v.Request.PerAlloc,
			AccessMode:     v.Request.AccessMode,
			AttachmentMode: v.Request.AttachmentMode,
		}
		if v.Request.FSType != "" || len(v.Request.MountFlags) > 0 {
			request.MountOptions = &nomad.CSIMountOptions{FSType: v.Request.FSType, MountFlags: slices.Clone(v.Request.MountFlags)}
		}
		name := claim(group, request)
		m := &nomad.VolumeMount{Volume: &name, Destination: new(v.Destination), ReadOnly: new(v.ReadOnly)}
		if v.Request.SELinuxLabel != "" {
			m.SELinuxLabel = new(v.Request.SELinuxLabel)
		}
		task.VolumeMounts = append(task.VolumeMounts, m)
		destinations = append(destinations, v.Destination)
	}
	keep, err := json.Marshal(destinations)
	if err != nil {
		return err
	}
	task.Env[KeepVariable] = string(keep)
	return nil
}

// claim returns the name of the group's request for a volume, of which there is one however often it is mounted. Who writes somewhere claims it
// to write.
func claim(group *nomad.TaskGroup, request *nomad.VolumeRequest) string {
	for _, name := range slices.Sorted(maps.Keys(group.Volumes)) {
		if r := group.Volumes[name]; r.Type == request.Type && r.Source == request.Source && r.PerAlloc == request.PerAlloc {
			if r.ReadOnly && !request.ReadOnly {
				request.Name = name
				group.Volumes[name] = request
			}
			return name
		}
	}
	group.Volumes[request.Name] = request
	return request.Name
}
