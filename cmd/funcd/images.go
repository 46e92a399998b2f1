package main

import "github.com/funcd/funcd/images"

// newPuller returns what has the cluster pull images.
func (a *agent) newPuller() *images.Puller {
	return images.NewPuller(images.PullerConfig{
		Resolver:    a.images,
		Cluster:     a.nomad,
		ShareLogins: a.settings.Nomad.Variables,
		Time:        a.settings.pullTime,
		AtOnce:      a.settings.Limits.Pulls,
		Logger:      a.log,
	})
}
