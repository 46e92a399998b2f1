package jobs

import (
	"fmt"
	"strings"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
)

// Names of the parts of a job that pulls an image.
const (
	PullPrefix = "funcd-pull-" // of the id; that of a function begins with Prefix
	PullGroup  = "pull"
	PullTask   = "image"
)

// The items of the Nomad Variable with a login for a registry.
const (
	LoginUsername = "username"
	LoginPassword = "password"
)

// maxVariablePath is the most that Nomad takes (validVariablePath in its structs/variables.go).
const maxVariablePath = 128

// LoginPath is the path of the Nomad Variable that holds a job's login for its image's registry: one that the job's own tasks may read. The
// error is of code Invalid for a job whose id is too long for it.
func LoginPath(job string) (string, error) {
	path := "nomad/jobs/" + job
	if len(path) > maxVariablePath {
		return "", api.Errorf(api.Invalid, "Name: is %d characters too long for an image from a registry with a login", len(path)-maxVariablePath)
	}
	return path, nil
}

// PullID returns the id of a job that pulls an image for an account. unique holds no hyphen.
func PullID(account, unique string) string { return PullPrefix + account + "-" + unique }

// AccountOf returns the account that a job of a function, of a call or of a pull is of. ok is false for other jobs.
func AccountOf(job string) (account string, ok bool) {
	if rest, pull := strings.CutPrefix(job, PullPrefix); pull {
		account, _, ok = strings.Cut(rest, "-")
		return account, ok
	}
	account, _, ok = ParseID(job)
	return account, ok
}

// RenderPull returns the job that has every node pull an image: its container is of the image, does nothing and ends at once. The docker
// driver's own pull is what counts.
func RenderPull(id string, p *api.ImagePull, o Options) (*nomad.Job, error) {
	placement := o.For(p.Account)
	job := nomad.NewSysbatchJob(id, id, o.Region, placement.Priority)
	o.region(job)
	placement.place(job, placement.NodePool)
	job.Meta = map[string]string{MetaAccount: p.Account}
	text := fmt.Sprintf("Pulls image `%s` onto every node for account **%s** of funcd, and is removed when they have it.", p.Ref, p.Account)
	job.UI = &nomad.JobUIConfig{Description: text[:min(len(text), maxDescription)]}

	group := nomad.NewTaskGroup(PullGroup, 1)
	group.RestartPolicy = &nomad.RestartPolicy{Attempts: new(0), Mode: new("fail")}
	group.EphemeralDisk = &nomad.EphemeralDisk{SizeMB: new(10)} // the least that Nomad takes
	job.AddTaskGroup(group)

	// The container of a function without a call, a network and a log.
	task := task(&api.Definition{
		Account: p.Account, Image: api.Image{Ref: p.Ref},
		Function: api.Function{Config: api.Config{StopSignal: "SIGKILL"}, HostConfig: api.HostConfig{NetworkMode: "none"}},
	}, Size{CPU: 1}, o)
	task.Name = PullTask
	task.Config["entrypoint"] = append(task.Config["entrypoint"].([]string), api.RunnerNothing)
	task.Config["force_pull"] = true
	if o.PullTime != 0 {
		task.Config["image_pull_timeout"] = o.PullTime.String()
	}
	task.Env, task.Identities = nil, nil
	task.LogConfig = &nomad.LogConfig{MaxFiles: new(1), MaxFileSizeMB: new(1), Disabled: new(true)}
	group.AddTask(task)
	if p.Login != nil {
		return job, giveLogin(id, task)
	}
	return job, nil
}

// The environment variables that a login takes from the template to the docker driver. The runner keeps them from the function's process, as all
// that begins like this.
const (
	usernameVariable = "FUNCD_REGISTRY_USERNAME"
	passwordVariable = "FUNCD_REGISTRY_PASSWORD"
)

// giveLogin lets the task's image be pulled with the login in the job's Nomad Variable. The password is nowhere in the job. On the node it is in a file
// that neither the container nor Nomad's API shows (private/ of the task's directory), and in the environment of the container's first process.
func giveLogin(job string, task *nomad.Task) error {
	path, err := LoginPath(job)
	if err != nil {
		return err
	}
	var data strings.Builder
	fmt.Fprintf(&data, "{{ with nomadVar %q }}\n", path)
	for _, v := range [][2]string{{usernameVariable, LoginUsername}, {passwordVariable, LoginPassword}} {
		fmt.Fprintf(&data, "%s={{ .%s.Value | toJSON }}\n", v[0], v[1])
	}
	data.WriteString("{{ end }}\n")
	task.Templates = append(task.Templates, &nomad.Template{
		EmbeddedTmpl: new(data.String()),
		DestPath:     new("private/registry.env"),
		Perms:        new("0600"),
		Envvars:      new(true),
		ChangeMode:   new("noop"),
	})
	task.Config["auth"] = []map[string]string{{"username": "${" + usernameVariable + "}", "password": "${" + passwordVariable + "}"}}
	return nil
}
