package nomad

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// deregistered is the TriggeredBy of an evaluation of a job that was stopped or purged. Nomad's client has no name for it.
const deregistered = "job-deregister"

// applyEvaluation notes why Nomad has no place for the job, as long as it has none, or that it will never have one.
func applyEvaluation(s *api.JobStatus, eval *nomad.Evaluation) {
	metric := eval.FailedTGAllocs[jobs.GroupName]
	switch {
	case s.Allocation != "" || s.Ended:
		return
	case eval.TriggeredBy == deregistered:
		s.Ended, s.Waiting, s.PortTaken = true, "", false
		s.Code, s.Message = api.CallFailed, "the call was stopped in Nomad before it had a container"
	case metric != nil:
		s.Waiting, s.PortTaken = noPlace(metric)
	}
}

// portTaken is how Nomad names a port that another allocation on the node has: by its label and its number.
var portTaken = regexp.MustCompile(`^network: reserved port collision \S+=([0-9]+)$`)

// migrating is the description of an allocation that ends because its node is drained (StatusAllocMigrating in Nomad's scheduler/structs).
const migrating = "alloc is being migrated"

// noPlace says in a sentence what `nomad job status` says in a list. port tells that there would be a place but for a port.
func noPlace(m *nomad.AllocationMetric) (reason string, port bool) {
	var reasons []string
	port = len(m.DimensionExhausted) > 0
	for _, dimension := range slices.Sorted(maps.Keys(m.DimensionExhausted)) {
		if taken := portTaken.FindStringSubmatch(dimension); taken != nil {
			reasons = append(reasons, fmt.Sprintf("port %s is taken on %s", taken[1], nodes(m.DimensionExhausted[dimension])))
			continue
		}
		port = false
		reasons = append(reasons, fmt.Sprintf("%s exhausted on %s", dimension, nodes(m.DimensionExhausted[dimension])))
	}
	for _, constraint := range slices.Sorted(maps.Keys(m.ConstraintFiltered)) {
		reasons = append(reasons, fmt.Sprintf("%s excluded %s", constraint, nodes(m.ConstraintFiltered[constraint])))
	}
	switch {
	case len(reasons) > 0:
		return "no capacity in the cluster: " + strings.Join(reasons, ", "), port
	case m.NodesEvaluated == 0:
		return "no capacity in the cluster: no node is ready for it", false
	}
	return fmt.Sprintf("no capacity in the cluster: none of %s has room for it", nodes(m.NodesEvaluated)), false
}

func nodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}

// applyAllocation notes what has become of the job's allocation.
func applyAllocation(s *api.JobStatus, a *nomad.AllocationListStub, image string) {
	s.Allocation, s.Node, s.Waiting, s.PortTaken = a.ID, a.NodeName, "", false
	task := a.TaskStates[jobs.TaskName]
	s.Running = s.Running || task != nil && !task.StartedAt.IsZero()
	switch a.ClientStatus {
	case nomad.AllocClientStatusLost, nomad.AllocClientStatusUnknown:
		s.Ended, s.Code, s.Message = true, api.CallFailed, "node lost: "+a.NodeName+" is down or can't be reached"
		s.Another = true
	case nomad.AllocClientStatusFailed, nomad.AllocClientStatusComplete:
		s.Ended, s.Stopped = true, stopped(task)
		s.Code, s.Message, s.Another = ending(task, image, a.DesiredDescription == migrating)
	}
}

// Parts of the docker driver's error messages. It has no codes.
var (
	// An image that is known by its id alone is pulled only where it is missing, and no registry has it, whether one answers or not.
	// A daemon that remembers the manifest of an image that it once had asks the registry for the blobs alone.
	imageMissing = regexp.MustCompile(`(?i)no such image|failed to find docker image|manifest unknown|manifest for .* not found|` +
		`repository .* not found|pull access denied|repository does not exist|name unknown|unknown blob|blob unknown|` + "failed to pull `sha256:")
	dockerAway = regexp.MustCompile(`(?i)cannot connect to the docker daemon|docker\.sock: connect: `)
	pullFailed = regexp.MustCompile("(?i)failed to pull `|error pulling|image pull")
)

// ending tells how a container ended that Nomad says has ended. The runner reports its call's end by itself and earlier, so for a call
// that still waits for it this is the reason why the runner could not. another is that of api.JobStatus.
func ending(task *nomad.TaskState, image string, migrates bool) (code api.Code, message string, another bool) {
	if task == nil {
		return api.CallFailed, "the container was never started", true
	}
	stopped := stopped(task)
	// The last event that gives a reason is the one that counts; what follows it only says that there will be no restart.
	for _, e := range slices.Backward(task.Events) {
		text := firstOf(e.DriverError, e.SetupError, e.DownloadError, e.ValidationError, e.DisplayMessage, e.Message)
		switch e.Type {
		case nomad.TaskDriverFailure:
			switch {
			case dockerAway.MatchString(text): // which says nothing of the image
			case imageMissing.MatchString(text):
				return api.CallFailed, "no such image: " + image, false
			case pullFailed.MatchString(text):
				return api.CallFailed, "image " + image + " can't be pulled: " + text, true
			}
			return api.CallFailed, "the container can't be started: " + text, true
		case nomad.TaskSetupFailure, nomad.TaskFailedValidation, nomad.TaskArtifactDownloadFailed:
			return api.CallFailed, "the container can't be started: " + text, e.Type != nomad.TaskFailedValidation
		case nomad.TaskTerminated:
			switch {
			case e.Details["oom_killed"] == "true":
				return api.CallFailed, "out of memory", true
			case stopped: // the status is that of being stopped
			case e.Signal != 0:
				return api.CallFailed, fmt.Sprintf("the container was killed by signal %d", e.Signal), true
			case e.ExitCode == 0 && e.Message != "":
				// Docker was killed, or cut off: what has become of the container is not known.
				return api.CallFailed, "the container is lost: Docker did not tell of its end: " + e.Message, true
			case e.ExitCode == api.RunnerGaveUp:
				return api.CallFailed, "the container has given up: it found no funcd server for longer than it waits", true
			case e.ExitCode != 0:
				return api.CallFailed, fmt.Sprintf("the container ended with status %d before its result was known", e.ExitCode), true
			}
		case nomad.TaskKilling, nomad.TaskKilled:
			continue
		}
	}
	if migrates {
		return api.CallFailed, "node lost: it is being drained", true
	}
	if !stopped {
		return api.CallFailed, "the container ended without a result", true
	}
	return api.CallFailed, "the container was stopped in Nomad before its result was known", false
}

// stopped tells whether the container was told to end before it did. Nomad notes that of one, too, that has ended by itself.
func stopped(task *nomad.TaskState) bool {
	if task == nil {
		return false
	}
	before := task.Events
	for i, e := range slices.Backward(before) {
		if e.Type == nomad.TaskTerminated {
			before = before[:i]
			break
		}
	}
	return slices.ContainsFunc(before, func(e *nomad.TaskEvent) bool { return e.Type == nomad.TaskKilling })
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return "no reason given"
}
