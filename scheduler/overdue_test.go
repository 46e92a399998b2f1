package scheduler

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

// obeys has the cluster say of each container that is stopped that it has ended.
func (k *stack) obeys() {
	k.cluster.onStop = func(job string) {
		if k.cluster.stop == nil {
			go k.cluster.say(api.JobStatus{Job: job, Ended: true, Stopped: true, Code: api.CallFailed, Message: "stopped in Nomad"})
		}
	}
}

// The latest that a runner may report: Timeout, kill timeout, and what a report takes; and what the end of a container may take that is stopped then.
const (
	latest = 2*testTimeout*time.Second + overtime
	grace  = testTimeout*time.Second + overtime
)

func TestTheOwnerEnforcesTheTimeout(t *testing.T) {
	const timeout = "timeout: it ran longer than 10 s"
	const silent = "timeout: no result came within 10 s, and Nomad says that its container runs on"
	away := api.Errorf(api.Unavailable, "Nomad does not answer")
	for name, c := range map[string]struct {
		cluster func(k *stack, call string) // after the call was taken; returns before its latest end
		code    api.Code
		message string
		after   time.Duration
		stops   int // at least
	}{
		"of a container that obeys":               {func(k *stack, _ string) { k.obeys() }, api.CallTimeout, timeout, latest, 1},
		"of one that the cluster says nothing of": {func(*stack, string) {}, api.CallTimeout, silent, latest + grace, 2},
		"of one that had ended, which the cluster tells late": {func(k *stack, call string) {
			k.cluster.onStop = func(job string) {
				time.AfterFunc(grace/2, func() {
					k.cluster.say(api.JobStatus{Job: job, Ended: true, Code: api.CallFailed, Message: "status 137", Another: true})
				})
			}
		}, api.CallFailed, "status 137", latest + grace/2, 1},
		"of one on a lost node": {func(k *stack, call string) {
			k.cluster.onStop = func(job string) {
				go k.cluster.say(api.JobStatus{Job: job, Ended: true, Code: api.CallFailed, Message: "node lost", Another: true})
			}
		}, api.CallFailed, "node lost", latest, 1},
		"when the cluster is away until it tells": {func(k *stack, call string) {
			k.cluster.failStop(away)
			time.AfterFunc(latest+time.Hour, func() {
				k.cluster.failStop(nil)
				k.cluster.say(api.JobStatus{Job: k.job(call), Ended: true, Code: api.CallFailed, Message: "status 137", Another: true})
			})
		}, api.CallFailed, "status 137", latest + time.Hour, 3600},
		"when the cluster is away, once it is back": {func(k *stack, _ string) {
			k.obeys()
			k.cluster.failStop(away)
			time.AfterFunc(latest+time.Hour-time.Second/2, func() { k.cluster.failStop(nil) })
		}, api.CallTimeout, timeout, latest + time.Hour, 3600},
		"when the cluster goes away again before it tells": {func(k *stack, _ string) {
			time.AfterFunc(latest+grace/2, func() { k.cluster.failStop(away) })
			time.AfterFunc(latest+time.Hour-time.Second/2, func() { k.cluster.failStop(nil) })
		}, api.CallTimeout, silent, latest + time.Hour + grace, 3},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, k *stack) {
				call := k.submit()
				time.Sleep(time.Hour) // waiting for a container is not running
				_, err := k.take(1, call)
				require.NoError(t, err)
				taken := time.Now()
				c.cluster(k, call)
				rec, _, err := k.s.Output(t.Context(), k.d, call, true)
				requireCode(t, c.code, err)
				require.Equal(t, c.after, time.Since(taken))
				require.Equal(t, c.message, rec.Message)
				synctest.Wait()
				k.requireFailed(call, c.code, c.message)
				require.GreaterOrEqual(t, len(k.stopped()), c.stops)
				require.Contains(t, k.stopped(), k.job(call))
				requireCode(t, api.Expired, k.report(1, call, 0, "late"))
			})
		})
	}
}

func TestResultThatComesWhileTheOwnerEnforcesTheTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, k *stack) {
		call := k.running()
		k.cluster.failStop(api.Errorf(api.Unavailable, "Nomad does not answer"))
		time.Sleep(latest + time.Minute)
		require.NoError(t, k.report(1, call, 0, "out"), "it has waited for a server")
		k.requireFinished(call, "out")
		require.Empty(t, k.waiting())
		stops := len(k.stopped())
		time.Sleep(time.Hour)
		require.Len(t, k.stopped(), stops, "its container may serve the next call")
	})
}
