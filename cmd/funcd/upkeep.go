package main

import (
	"context"
	"sync"
	"time"

	"github.com/funcd/funcd/api"
)

const (
	upkeepPeriod    = 10 * time.Second
	orphanPeriod    = time.Minute      // at most, and upkeepPeriod at least: with thousands of functions it takes a tenth of a second to list their jobs
	quotaPeriod     = time.Second      // between two looks at what is in memory
	unfetchedPeriod = 10 * time.Minute // at most: it reads all records
	upkeepLock      = "upkeep"
	learnPeriod     = time.Second // between two attempts to ask Consul which funcd cluster this is
)

// keepServing takes on accounts whose first call another server has accepted, and hears of nodes that are being drained.
func (a *agent) keepServing(ctx context.Context) {
	every(ctx, upkeepPeriod, func() {
		if err := a.scheduler.ServeAll(ctx); err != nil {
			a.log.Debug("accounts are not looked for", "error", err)
		}
		if err := a.scheduler.LookForDrains(ctx); err != nil {
			a.log.Debug("nodes that are being drained are not looked for", "error", err)
		}
	})
}

// keepQuotas follows the quotas that the credentials state.
func (a *agent) keepQuotas(ctx context.Context) {
	every(ctx, quotaPeriod, func() {
		if err := a.scheduler.UpdateQuotas(ctx); err != nil && ctx.Err() == nil {
			a.log.Debug("quotas are not changed", "error", err)
		}
	})
}

// learnCluster asks Consul which funcd cluster this server is of until it answers.
func (a *agent) learnCluster(ctx context.Context) {
	ctx, done := context.WithCancel(ctx)
	defer done()
	every(ctx, learnPeriod, func() {
		id, err := a.consul.ClusterID(ctx)
		switch {
		case err == nil:
			a.nomad.SetCluster(id)
			done()
		case ctx.Err() == nil && api.CodeOf(err) != api.Unavailable:
			a.log.Error("the id of the cluster can't be read", "error", err)
		}
	})
}

// upkeep is what one server does for all: it repairs what the cluster has lost, keeps containers ready, and clears away what is of no more use.
func (a *agent) upkeep(ctx context.Context) error {
	if err := a.functions.WaitReady(ctx); err != nil {
		return err
	}
	orphans := max(upkeepPeriod, min(orphanPeriod, a.settings.orphanTime/10))
	var parts sync.WaitGroup
	defer parts.Wait()
	for _, part := range []struct {
		what   string // is wrong if it fails
		do     func(context.Context) error
		period time.Duration
	}{
		{"no containers are kept ready", a.scheduler.KeepWarm, upkeepPeriod},
		{"functions are not repaired", a.service.Repair, upkeepPeriod},
		{"pulls that were left behind stay", a.forgetPulls, upkeepPeriod},
		{"removed functions are not cleared", a.service.RemoveOrphans, orphans},
		{"jobs in namespaces that their accounts had before stay", a.nomad.RemoveMisplaced, orphans},
		{"calls that nobody has fetched stay", a.removeUnfetched, max(time.Second, min(unfetchedPeriod, a.settings.unfetchedTime/10))},
		{"ended containers are not purged", a.scheduler.PurgeEnded, upkeepPeriod},
	} {
		parts.Go(func() {
			every(ctx, part.period, func() {
				if err := part.do(ctx); err != nil && ctx.Err() == nil {
					a.log.Debug(part.what, "error", err)
				}
			})
		})
	}
	return nil
}

// removeUnfetched removes what is kept of calls for too long, or of too many.
func (a *agent) removeUnfetched(ctx context.Context) error {
	removed, err := a.store.RemoveUnfetched(ctx)
	if removed > 0 {
		a.log.Info("calls that nobody has fetched were removed", "calls", removed)
	}
	return err
}

// forgetPulls removes the pulls that a server has left behind: it would have ended them in time.
func (a *agent) forgetPulls(ctx context.Context) error {
	return a.nomad.ForgetPulls(ctx, time.Now().Add(-a.settings.pullTime-time.Minute))
}

// every calls do at once and then after each period until ctx ends.
func every(ctx context.Context, period time.Duration, do func()) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
