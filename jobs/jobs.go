// Package jobs renders a function as a Nomad job: a parameterized batch job with the docker driver, of which every call is one dispatch.
//
// It is pure: the same function and options always give the same job, nothing is read or asked. What the job is sent to, and when, is
// left to package nomad.
//
// The job says where and with what a container runs. What runs in it (the command, its environment, the payload) comes with the call,
// over the runner: Nomad would replace every ${…} in it, and show it to everyone who may read jobs.
package jobs

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
)

// Options is what an operator decides about all functions' jobs.
type Options struct {
	Region         string
	Placement                           // of accounts that have none of their own
	Accounts       map[string]Placement // those that have
	Sizes          map[string]Size      // by ContainerSize; all of api.Sizes
	MaxKillTimeout time.Duration        // the clients' max_kill_timeout, over which Nomad would cut it
	PidsLimit      int                  // processes in a container, 0 for the clients' default
	Cluster        string               // the id of the funcd cluster, as several may share a Nomad; empty while it is not known
	CapDrop        []string             // capabilities that containers have not, beside those that Docker takes from them
	HostNetwork    string               // of the clients, where ports are published; empty for the default
	APIAddress     string               // where clients reach the API, for the jobs' pages; empty for no link
	PullTime       time.Duration        // of one image on one node, by RenderPull; 0 for the clients' default
	Runner         Runner
	Login          string // the image's registry, if the job's Nomad Variable holds a login for it, see LoginPath
}

// Size is what Nomad reserves for a container.
type Size struct {
	CPU       int    // MHz
	Cores     int    // whole cores in place of CPU, if not 0
	Memory    int    // MB that the function has; a hard limit
	MemoryMax int    // MB that it may have while the client has them, the hard limit then; 0 for none. Needs Nomad's memory oversubscription
	NodePool  string // of the nodes that calls of this size run on; empty for that of all
}

// DefaultSizes are the ten tiers of the Func API. Memory is the API's; the API's cores become a share of CPU, as a function that waits for
// its call would otherwise hold whole cores.
func DefaultSizes() map[string]Size {
	return map[string]Size{
		"s1": {CPU: 100, Memory: 64},
		"s2": {CPU: 200, Memory: 128},
		"s3": {CPU: 300, Memory: 256},
		"s4": {CPU: 500, Memory: 512},
		"m1": {CPU: 1000, Memory: 1024},
		"m2": {CPU: 2000, Memory: 2048},
		"m3": {CPU: 2000, Memory: 4096},
		"l1": {CPU: 4000, Memory: 4096},
		"l2": {CPU: 4000, Memory: 8192},
		"l3": {CPU: 8000, Memory: 16384},
	}
}

// Runner is how a container gets its runner, and the runner its server. Exactly one of SocketDir and URL is set.
type Runner struct {
	// SocketDir is a directory on the clients with funcd-runner and funcd's Unix socket in it. It is mounted at /funcd. The clients must
	// allow Docker volumes.
	SocketDir string
	// URL is where containers reach funcd. The runner is downloaded from it and must have ArchiveSHA256, in hex.
	URL           string
	ArchiveSHA256 string
	// CACert is what the runner trusts for an https URL, in PEM. Images need not have certificates of their own.
	CACert string
	// Patience is how long a container waits for a server when all are away; 0 for the runner's own default.
	Patience time.Duration
}

// The names in SocketDir, and where it is in the container.
const (
	MountPoint = "/funcd"
	RunnerFile = "funcd-runner"
	SocketFile = "funcd.sock"
)

// RunnerMemory is what the runner may use, in MB, on top of the size's memory: the function has all of that.
const RunnerMemory = 10

// Names of the job's parts.
const (
	Prefix    = "func-"
	GroupName = "call"
	TaskName  = "function"
)

// The keys of the job's meta. None of them is a secret: the UUID of a function is one and is nowhere in the job.
const (
	MetaFunction = "funcd_function" // the internal id
	MetaAccount  = api.ServiceAccount
	MetaName     = "funcd_name"
	MetaRevision = "funcd_revision"
	MetaCluster  = "funcd_cluster" // whose job it is
	MetaLogin    = "funcd_login"   // the registry of its image, if there is a login for it
	MetaCall     = "call"          // of a dispatch for a call: the call's id
	MetaSlot     = "slot"          // of a dispatch ahead of any call: an id of its own
	MetaLabel    = "label."        // and a label's name, for each of the function's labels
)

// DefaultMaxKillTimeout is the default of max_kill_timeout in a Nomad client's configuration.
const DefaultMaxKillTimeout = 30 * time.Second

// ID is the id of the function's job. Accounts hold no hyphen, so it reads in one way only.
func ID(account, name string) string { return Prefix + account + "-" + name }

// ParseID is the inverse of ID. ok is false for what is not the id of a function's job.
func ParseID(id string) (account, name string, ok bool) {
	rest, ok := strings.CutPrefix(id, Prefix)
	if !ok {
		return "", "", false
	}
	account, name, ok = strings.Cut(rest, "-")
	return account, name, ok && name != ""
}

// KillTimeout is how long a function has between its StopSignal and SIGKILL: its Timeout, but at most most, and nothing at all where
// the StopSignal is SIGKILL.
func KillTimeout(f *api.Function, most time.Duration) time.Duration {
	if f.Config.StopSignal.Name() == "SIGKILL" {
		return 0
	}
	return min(time.Duration(f.Timeout)*time.Second, most)
}

// ValidateSizes tells what is wrong with the sizes, naming the first wrong one.
func (o *Options) ValidateSizes() error {
	for _, name := range api.Sizes {
		size, ok := o.Sizes[name]
		switch {
		case !ok:
			return fmt.Errorf("size %s is not defined", name)
		case size.Memory < 1:
			return fmt.Errorf("size %s: memory must be at least 1 MB", name)
		case size.MemoryMax != 0 && size.MemoryMax < size.Memory:
			return fmt.Errorf("size %s: memory_max must be at least memory", name)
		case size.CPU < 1 && size.Cores < 1:
			return fmt.Errorf("size %s: one of cpu and cores must be at least 1", name)
		case size.CPU != 0 && size.Cores != 0:
			return fmt.Errorf("size %s: cpu and cores exclude each other", name)
		}
	}
	return nil
}

// Validate tells what is wrong with the options, naming the first wrong one.
func (o *Options) Validate() error {
	if err := o.ValidateSizes(); err != nil {
		return err
	}
	if (o.Runner.SocketDir == "") == (o.Runner.URL == "") {
		return errors.New("runner: exactly one of a socket directory and a URL must be set")
	}
	for _, account := range slices.Sorted(maps.Keys(o.Accounts)) {
		p := o.Accounts[account]
		if err := p.Validate(); err != nil {
			return fmt.Errorf("account %q: %w", account, err)
		}
	}
	if o.Runner.URL != "" && o.Runner.ArchiveSHA256 == "" {
		return errors.New("runner: a runner that is downloaded needs its checksum")
	}
	return nil
}

// region leaves the job's region to the server that gets it where none is configured: an empty one is refused as missing.
func (o *Options) region(job *nomad.Job) {
	if o.Region == "" {
		job.Region = nil
	}
}

// Render returns the function's job. The error is of code Invalid if the function asks for what can't be had here.
func Render(d *api.Definition, o Options) (*nomad.Job, error) {
	size, ok := o.Sizes[d.Function.ContainerSize]
	if !ok {
		return nil, api.Errorf(api.Invalid, "ContainerSize: %q is not defined here", d.Function.ContainerSize)
	}
	if d.Function.HostConfig.NetworkMode == "none" && o.Runner.URL != "" {
		return nil, api.Errorf(api.Invalid, "HostConfig.NetworkMode: none can't be had here, as containers reach funcd over their network (runner mode http)")
	}
	placement := o.For(d.Account)
	job := nomad.NewBatchJob(ID(d.Account, d.Function.Name), ID(d.Account, d.Function.Name), o.Region, placement.Priority)
	o.region(job)
	placement.place(job, cmp.Or(size.NodePool, placement.NodePool))
	placement.spread(job)
	job.ParameterizedJob = &nomad.ParameterizedJobConfig{Payload: "forbidden", MetaOptional: []string{MetaCall, MetaSlot}}
	job.Meta = map[string]string{
		MetaFunction: d.ID,
		MetaAccount:  d.Account,
		MetaName:     d.Function.Name,
		MetaRevision: strconv.FormatUint(d.Revision, 10),
	}
	if o.Cluster != "" {
		job.Meta[MetaCluster] = o.Cluster
	}
	for label, value := range d.Function.Config.Labels {
		job.Meta[MetaLabel+label] = value
	}
	job.UI = page(d, o)

	group := nomad.NewTaskGroup(GroupName, 1)
	// A call runs at most once: funcd alone decides whether it may run again.
	group.RestartPolicy = &nomad.RestartPolicy{Attempts: new(0), Mode: new("fail"), Interval: new(time.Minute), Delay: new(time.Duration(0))}
	group.ReschedulePolicy = &nomad.ReschedulePolicy{Attempts: new(0), Unlimited: new(false)}
	group.EphemeralDisk = &nomad.EphemeralDisk{SizeMB: new(diskMB)}
	task := task(d, size, o)
	if err := placement.dress(task, d.Function.HostConfig.NetworkMode); err != nil {
		return nil, err
	}
	if err := publish(d, group, task, o); err != nil {
		return nil, err
	}
	link(d, task)
	hideLogs(d, task)
	if err := mount(d, group, task); err != nil {
		return nil, err
	}
	if o.Login != "" {
		job.Meta[MetaLogin] = o.Login
		if err := giveLogin(*job.ID, task); err != nil {
			return nil, err
		}
	}
	group.AddTask(task)
	job.AddTaskGroup(group)
	return job, nil
}

// A call's log is what it writes to stdout and stderr: 1 MiB of stdout is kept as its answer, so little more is worth its disk.
const (
	logFiles  = 2
	logFileMB = 5
	diskMB    = 2 * logFiles * logFileMB // stdout and stderr
)

// literal is text as the docker driver's configuration is to hold it. Nomad's clients evaluate that as a template of HCL, with expressions and with the
// whole of the task's environment: the runner's token and the login for a registry are in there.
func literal(text string) string { return templates.Replace(text) }

var templates = strings.NewReplacer("${", "$${", "%{", "%%{")

func task(d *api.Definition, size Size, o Options) *nomad.Task {
	f := &d.Function
	task := nomad.NewTask(TaskName, "docker")
	config := map[string]any{
		"image":        d.Image.Ref,
		"security_opt": []string{"no-new-privileges"},
	}
	if o.PidsLimit != 0 {
		config["pids_limit"] = o.PidsLimit
	}
	if len(o.CapDrop) > 0 {
		config["cap_drop"] = slices.Clone(o.CapDrop)
	}
	if f.Config.WorkingDir != "" {
		config["work_dir"] = literal(f.Config.WorkingDir)
	}
	if f.HostConfig.NetworkMode != api.DefaultNetwork {
		config["network_mode"] = f.HostConfig.NetworkMode
	}
	if len(f.Config.Labels) > 0 {
		labels := make(map[string]string, len(f.Config.Labels))
		for name, value := range f.Config.Labels {
			labels[literal(name)] = literal(value)
		}
		config["labels"] = []map[string]string{labels}
	}
	runner, address := "", ""
	if o.Runner.SocketDir != "" {
		config["volumes"] = []string{o.Runner.SocketDir + ":" + MountPoint + ":ro"}
		runner, address = MountPoint+"/"+RunnerFile, "unix://"+MountPoint+"/"+SocketFile
	} else {
		address = o.Runner.URL
		task.Artifacts = []*nomad.TaskArtifact{{
			GetterSource:  new(strings.TrimSuffix(o.Runner.URL, "/") + api.RunnerBinaryPath + "?archive=tar.gz"),
			GetterOptions: map[string]string{"checksum": "sha256:" + o.Runner.ArchiveSHA256},
			RelativeDest:  new("local/funcd"),
		}}
		if o.Runner.CACert != "" {
			// The client, which need not trust it, has the checksum.
			task.Artifacts[0].GetterInsecure = new(true)
		}
		runner = "/local/funcd/" + RunnerFile
	}
	config["entrypoint"] = []string{runner}
	task.Config = config
	task.Env = map[string]string{"FUNCD_ADDRESS": address}
	if o.Runner.CACert != "" {
		task.Env["FUNCD_CA"] = o.Runner.CACert
	}
	if o.Runner.Patience > 0 {
		task.Env["FUNCD_PATIENCE"] = o.Runner.Patience.String()
	}
	task.Identities = []*nomad.WorkloadIdentity{{
		Name:     api.RunnerIdentity,
		Audience: []string{api.RunnerIdentity},
		Env:      true,
	}}
	task.Resources = &nomad.Resources{MemoryMB: new(size.Memory + RunnerMemory)}
	if size.MemoryMax > 0 {
		task.Resources.MemoryMaxMB = new(size.MemoryMax + RunnerMemory)
	}
	if size.Cores > 0 {
		task.Resources.Cores = &size.Cores
	} else {
		task.Resources.CPU = &size.CPU
	}
	killTimeout := KillTimeout(f, o.MaxKillTimeout) // Nomad makes its default of 5 s of 0, in which SIGKILL must be sent: less than a moment fails
	var stop string
	if task.KillSignal, stop = killSignal(f); stop != "" {
		task.Env[StopVariable] = stop
	}
	task.KillTimeout = &killTimeout
	task.LogConfig = &nomad.LogConfig{MaxFiles: new(logFiles), MaxFileSizeMB: new(logFileMB)}
	return task
}
