package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/jobs"
)

func TestPlacements(t *testing.T) {
	t.Parallel()
	s, err := load(t, `
		account "team" {
			nomad {
				namespace = "team"
				constraint {
					attribute = "meta.rack"
					operator  = "regexp"
					value     = "^r[12]$"
				}
				docker = {
					dns_servers = ["10.0.0.53"]
					ulimit      = { nofile = "4096:8192" }
				}
			}
		}
		account "*" {
			nomad {
				priority = 60
				constraint {
					attribute = "attr.kernel.name"
					value     = "linux"
				}
				spread {
					attribute = "node.datacenter"
					weight    = 80
					target "dc1" {
						percent = 70
					}
				}
			}
		}
		account "other" {
			allow {
				fixed_ports = false
			}
		}
		nomad {
			namespace = "funcd"
			node_pool = "functions"
		}
	`)
	require.NoError(t, err)
	spreads := []jobs.Spread{{Attribute: "node.datacenter", Weight: 80, Targets: []jobs.SpreadTarget{{Value: "dc1", Percent: 70}}}}
	require.Equal(t, jobs.Placement{
		Namespace: "funcd", NodePool: "functions", Datacenters: []string{"*"}, Priority: 60, Spreads: spreads,
		Constraints: []jobs.Constraint{{Attribute: "attr.kernel.name", Value: "linux"}},
	}, s.placement)
	require.Equal(t, map[string]jobs.Placement{"team": {
		Namespace: "team", NodePool: "functions", Datacenters: []string{"*"}, Priority: 60, Spreads: spreads,
		Constraints: []jobs.Constraint{{Attribute: "meta.rack", Operator: "regexp", Value: "^r[12]$"}},
		Docker:      map[string]any{"dns_servers": []any{"10.0.0.53"}, "ulimit": map[string]any{"nofile": "4096:8192"}},
	}}, s.placements)
}

func TestWrongPlacements(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`namespace = "*"`:   `account "team": nomad.namespace: "*" is not`,
		`namespace = "a b"`: `nomad.namespace: "a b" is not`,
		`node_pool = "a/b"`: `nomad.node_pool: "a/b" is not`,
		`priority = 0`:      `nomad.priority: must be`,
		`datacenters = []`:  `nomad.datacenters: must name`,
		`constraint {}`:     `The argument "attribute" is required`,
		"constraint {\nattribute = \"rack\"\nvalue = 1\n}":                                                          `nomad.constraint: "rack" is not an attribute`,
		"constraint {\nattribute = \"meta.rack\"\noperator = \"like\"\nvalue = \"a\"\n}":                            `nomad.constraint: meta.rack: "like" is not an operator`,
		"constraint {\nattribute = \"meta.rack\"\n}":                                                                `nomad.constraint: meta.rack: = needs a value`,
		"constraint {\nattribute = \"meta.rack\"\noperator = \"is_set\"\nvalue = \"a\"\n}":                          `nomad.constraint: meta.rack: is_set takes no value`,
		"constraint {\nattribute = \"meta.rack\"\noperator = \"regexp\"\nvalue = \"(\"\n}":                          `nomad.constraint: meta.rack: error parsing regexp`,
		"spread {\nattribute = \"dc\"\n}":                                                                           `nomad.spread: "dc" is not an attribute`,
		"spread {\nattribute = \"node.class\"\nweight = 101\n}":                                                     `nomad.spread: node.class: weight must be`,
		"spread {\nattribute = \"node.class\"\ntarget \"a\" {\npercent = 60\n}\ntarget \"b\" {\npercent = 60\n}\n}": `its targets are 120 percent`,
		"spread {\nattribute = \"node.class\"\ntarget \"a\" {\npercent = 6\n}\ntarget \"a\" {\npercent = 6\n}\n}":   `another target "a"`,
		`docker = "runsc"`:                         `nomad.docker: must be of the form`,
		`docker = { privileged = true }`:           `nomad.docker: privileged can't be set, but cgroupns,`,
		`docker = { entrypoint = ["/bin/sh"] }`:    `nomad.docker: entrypoint can't be set`,
		`docker = { volumes = ["/:/host"] }`:       `nomad.docker: volumes can't be set`,
		`docker = { security_opt = [] }`:           `nomad.docker: security_opt can't be set`,
		`docker = { dns_servers = [somewhere.x] }`: `Variables not allowed`,
	} {
		_, err := load(t, "account \"team\" {\nnomad {\n"+text+"\n}\n}\n")
		require.ErrorContains(t, err, want, text)
	}
	_, err := load(t, "nomad {\nnamespace = \"*\"\n}\n")
	require.ErrorContains(t, err, `nomad.namespace: "*" is not`)
}

// The example of an account's block is good too.
func TestExampleAccount(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../configs/funcd.hcl")
	require.NoError(t, err)
	block := regexp.MustCompile(`(?ms)^# account "team" \{$.*?^# \}$`).FindString(string(text))
	require.NotEmpty(t, block)
	s, err := load(t, regexp.MustCompile(`(?m)^# ?`).ReplaceAllString(block, ""))
	require.NoError(t, err)
	require.Equal(t, "team", s.placements["team"].Namespace)
	for name := range strings.FieldsSeq("dns_servers ulimit") {
		require.Contains(t, s.placements["team"].Docker, name)
	}
	for _, name := range jobs.DockerSettings {
		require.Contains(t, block, name, "all that may be set are listed")
	}
}
