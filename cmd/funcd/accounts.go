package main

import (
	"fmt"

	"github.com/funcd/funcd/api"
)

// everyAccount is the label of the account block whose settings are for all accounts that do not set their own.
const everyAccount = "*"

// accountConfig is what an operator decides for the functions of one account. What is nil is as in the block of everyAccount.
type accountConfig struct {
	Name  string       `hcl:"name,label"`
	Allow *allowConfig `hcl:"allow,block"`
	Nomad *placeConfig `hcl:"nomad,block"`
	// SignedCalls demands a signature of the call group too.
	SignedCalls *bool `hcl:"signed_calls,optional"`
}

// allowConfig are the switches of an api.Policy.
type allowConfig struct {
	HostNetworking      *bool `hcl:"host_networking,optional"`
	ContainerNetworking *bool `hcl:"container_networking,optional"`
	FixedPorts          *bool `hcl:"fixed_ports,optional"`
	VolumesFrom         *bool `hcl:"volumes_from,optional"`
	StopSignalSIGKILL   *bool `hcl:"stop_signal_sigkill,optional"`
}

// checkAccounts refuses what is no account's name, and one that is there twice.
func (c config) checkAccounts() error {
	seen := map[string]bool{}
	for _, a := range c.Accounts {
		switch {
		case a.Name != everyAccount && !api.ValidAccount(a.Name):
			return fmt.Errorf("account %q: must be an account's name, or %s for all", a.Name, everyAccount)
		case seen[a.Name]:
			return fmt.Errorf("account %q: there is another block for it", a.Name)
		}
		seen[a.Name] = true
	}
	return nil
}

// accountBlocks returns the blocks that count for an account, the one that wins last.
func (c config) accountBlocks(account string) []accountConfig {
	var blocks []accountConfig
	for _, name := range []string{everyAccount, account} {
		for _, a := range c.Accounts {
			if a.Name == name {
				blocks = append(blocks, a)
			}
		}
	}
	return blocks
}

// policy is what the account's functions may ask for.
func (c config) policy(account string) api.Policy {
	p := api.FullPolicy()
	for _, block := range c.accountBlocks(account) {
		if a := block.Allow; a != nil {
			set(&p.HostNetworking, a.HostNetworking)
			set(&p.ContainerNetworking, a.ContainerNetworking)
			set(&p.FixedPorts, a.FixedPorts)
			set(&p.VolumesFrom, a.VolumesFrom)
			set(&p.StopSignalSIGKILL, a.StopSignalSIGKILL)
		}
	}
	return p
}

// signedCalls tells whether calls of the account's functions must be signed.
func (c config) signedCalls(account string) bool {
	signed := false
	for _, block := range c.accountBlocks(account) {
		set(&signed, block.SignedCalls)
	}
	return signed
}

// set puts a value in place of another, if there is one.
func set[T any](to *T, value *T) {
	if value != nil {
		*to = *value
	}
}
