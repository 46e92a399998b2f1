package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/jobs"
)

// placeConfig is where an account's jobs are. What is not set is as in the block of everyAccount, or in the nomad block of the file.
type placeConfig struct {
	Namespace   *string            `hcl:"namespace,optional"`
	NodePool    *string            `hcl:"node_pool,optional"`
	Datacenters []string           `hcl:"datacenters,optional"`
	Priority    *int               `hcl:"priority,optional"`
	Constraints []constraintConfig `hcl:"constraint,block"`
	Spreads     []spreadConfig     `hcl:"spread,block"`
	Docker      hcl.Expression     `hcl:"docker,optional"`
}

type constraintConfig struct {
	Attribute string `hcl:"attribute"`
	Operator  string `hcl:"operator,optional"`
	Value     string `hcl:"value,optional"`
}

type spreadConfig struct {
	Attribute string         `hcl:"attribute"`
	Weight    int            `hcl:"weight,optional"`
	Targets   []targetConfig `hcl:"target,block"`
}

type targetConfig struct {
	Value   string `hcl:"value,label"`
	Percent int    `hcl:"percent"`
}

// place works out where the jobs of all accounts are. The error names the setting.
func (s *settings) place() error {
	s.placement = jobs.Placement{Namespace: s.Nomad.Namespace, Datacenters: s.Nomad.Datacenters, NodePool: s.Nomad.NodePool, Priority: s.Nomad.Priority}
	if err := s.placement.Validate(); err != nil {
		return fmt.Errorf("nomad.%w", err)
	}
	s.placements = map[string]jobs.Placement{}
	blocks := slices.Clone(s.Accounts)
	// That of all accounts first, as the others begin with what it says.
	slices.SortStableFunc(blocks, func(a, b accountConfig) int {
		switch {
		case a.Name == everyAccount && b.Name != everyAccount:
			return -1
		case a.Name != everyAccount && b.Name == everyAccount:
			return 1
		}
		return 0
	})
	for _, block := range blocks {
		if block.Nomad == nil {
			continue
		}
		placement, err := block.Nomad.over(s.placement)
		if err == nil {
			err = placement.Validate()
		}
		if err != nil {
			return fmt.Errorf("account %q: nomad.%w", block.Name, err)
		}
		if block.Name == everyAccount {
			s.placement = placement
		} else {
			s.placements[block.Name] = placement
		}
	}
	return nil
}

// over returns the placement with what the block sets in place of what it had.
func (c *placeConfig) over(p jobs.Placement) (jobs.Placement, error) {
	set(&p.Namespace, c.Namespace)
	set(&p.NodePool, c.NodePool)
	set(&p.Priority, c.Priority)
	if c.Datacenters != nil {
		p.Datacenters = c.Datacenters
	}
	if c.Constraints != nil {
		p.Constraints = nil
		for _, constraint := range c.Constraints {
			p.Constraints = append(p.Constraints, jobs.Constraint(constraint))
		}
	}
	if c.Spreads != nil {
		p.Spreads = nil
		for _, s := range c.Spreads {
			spread := jobs.Spread{Attribute: s.Attribute, Weight: s.Weight}
			for _, t := range s.Targets {
				spread.Targets = append(spread.Targets, jobs.SpreadTarget(t))
			}
			p.Spreads = append(p.Spreads, spread)
		}
	}
	docker, err := objectOf(c.Docker)
	if err != nil {
		return p, fmt.Errorf("docker: %w", err)
	}
	if docker != nil {
		p.Docker = docker
	}
	return p, nil
}

// objectOf returns the value of an attribute that is an object of anything, nil if it is not set.
func objectOf(expression hcl.Expression) (map[string]any, error) {
	if expression == nil {
		return nil, nil
	}
	value, diagnostics := expression.Value(nil)
	if diagnostics.HasErrors() {
		return nil, diagnostics
	}
	if value.IsNull() {
		return nil, nil
	}
	if !value.Type().IsObjectType() {
		return nil, errors.New("must be of the form { name = value }")
	}
	text, err := ctyjson.Marshal(value, value.Type())
	if err != nil {
		return nil, err
	}
	var object map[string]any
	return object, json.Unmarshal(text, &object)
}

// checkPlacement asks Nomad for what the configuration says of it: what Nomad has not is an error. While Nomad does not answer the server starts
// all the same, and the log says so when it answers.
func (a *agent) checkPlacement(ctx context.Context) error {
	err := a.nomad.CheckPlacement(ctx)
	if api.CodeOf(err) == api.Invalid {
		return usageError{err}
	} else if err == nil || ctx.Err() != nil {
		return err
	}
	a.log.Warn("where functions are to be is not checked yet", "error", err)
	a.running.Go(func() {
		ctx, done := context.WithCancel(a.background)
		defer done()
		every(ctx, upkeepPeriod, func() {
			err := a.nomad.CheckPlacement(ctx)
			switch {
			case api.CodeOf(err) == api.Unavailable || ctx.Err() != nil:
				return
			case err != nil:
				a.log.Error("functions can't be where the configuration says", "error", err)
			}
			done()
		})
	})
	return nil
}
