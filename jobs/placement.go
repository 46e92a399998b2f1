package jobs

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	nomad "github.com/hashicorp/nomad/api"
)

// Placement is where the jobs of an account are, and what their containers have beside the functions' own settings.
type Placement struct {
	Namespace   string   // empty for that of Nomad's client
	Datacenters []string // with * as a wildcard
	NodePool    string   // empty for the namespace's
	Priority    int
	Constraints []Constraint
	Spreads     []Spread
	Docker      map[string]any // of the docker driver's configuration, of those in DockerSettings; maps are blocks
}

// Constraint is one that nodes must meet.
type Constraint struct {
	Attribute string // "${attr.kernel.name}"; the braces may be left out
	Operator  string // empty for =
	Value     string
}

// Spread is an attribute of the nodes over whose values calls are spread.
type Spread struct {
	Attribute string // as a Constraint's
	Weight    int    // 0 for Nomad's own
	Targets   []SpreadTarget
}

// SpreadTarget is how many of the calls a value of the attribute is to get.
type SpreadTarget struct {
	Value   string
	Percent int
}

// DockerSettings are the docker driver's that an operator may set for all containers of an account. All others are funcd's, or would undo what every
// container is confined by.
var DockerSettings = []string{
	"cgroupns", "container_exists_attempts", "cpu_cfs_period", "cpu_hard_limit", "devices", "dns_options", "dns_search_domains", "dns_servers", "extra_hosts",
	"group_add", "image_pull_timeout", "logging", "oom_score_adj", "readonly_rootfs", "runtime", "shm_size", "storage_opt", "sysctl", "ulimit",
}

// ofNetwork are the docker driver's settings that Docker refuses for a container in another one's network.
var ofNetwork = []string{"dns_options", "dns_search_domains", "dns_servers", "extra_hosts", "sysctl"}

// operators of a constraint, with whether they take a value.
var operators = map[string]bool{
	"=": true, "==": true, "is": true, "!=": true, "not": true, "<": true, "<=": true, ">": true, ">=": true, "regexp": true, "version": true, "semver": true,
	"set_contains": true, "set_contains_all": true, "set_contains_any": true, "is_set": false, "is_not_set": false,
}

var (
	namespaceName = regexp.MustCompile(`^[a-zA-Z0-9-]{1,128}$`)  // as Nomad's validNamespaceName
	nodePoolName  = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,128}$`) // and validNodePoolName
	attribute     = regexp.MustCompile(`^\$\{(attr\.|meta\.|device\.|node\.)[^{}\s]+\}$`)
)

// For returns where the jobs of an account are.
func (o *Options) For(account string) Placement {
	if p, ok := o.Accounts[account]; ok {
		return p
	}
	return o.Placement
}

// Validate tells what is wrong with the placement, naming the first wrong setting.
func (p *Placement) Validate() error {
	switch {
	case p.Namespace != "" && !namespaceName.MatchString(p.Namespace):
		return fmt.Errorf("namespace: %q is not a namespace's name", p.Namespace)
	case p.NodePool != "" && !nodePoolName.MatchString(p.NodePool):
		return fmt.Errorf("node_pool: %q is not a node pool's name", p.NodePool)
	case p.Priority < 1:
		return errors.New("priority: must be at least 1")
	case len(p.Datacenters) == 0 || slices.Contains(p.Datacenters, ""):
		return errors.New(`datacenters: must name some, or "*" for all`)
	}
	for _, c := range p.Constraints {
		if err := c.validate(); err != nil {
			return fmt.Errorf("constraint: %w", err)
		}
	}
	for _, s := range p.Spreads {
		if err := s.validate(); err != nil {
			return fmt.Errorf("spread: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Docker)) {
		if !slices.Contains(DockerSettings, name) {
			return fmt.Errorf("docker: %s can't be set, but %s", name, strings.Join(DockerSettings, ", "))
		}
	}
	return nil
}

// reference is an attribute as Nomad refers to it.
func reference(text string) string {
	if strings.HasPrefix(text, "${") {
		return text
	}
	return "${" + text + "}"
}

func checkAttribute(text string) error {
	if !attribute.MatchString(reference(text)) {
		return fmt.Errorf("%q is not an attribute of nodes, such as attr.kernel.name, meta.rack or node.class", text)
	}
	return nil
}

func (c Constraint) validate() error {
	if err := checkAttribute(c.Attribute); err != nil {
		return err
	}
	operator := cmp.Or(c.Operator, "=")
	takesValue, ok := operators[operator]
	switch {
	case !ok:
		return fmt.Errorf("%s: %q is not an operator of Nomad's", c.Attribute, operator)
	case takesValue && c.Value == "":
		return fmt.Errorf("%s: %s needs a value", c.Attribute, operator)
	case !takesValue && c.Value != "":
		return fmt.Errorf("%s: %s takes no value", c.Attribute, operator)
	}
	if operator == "regexp" {
		if _, err := regexp.Compile(c.Value); err != nil {
			return fmt.Errorf("%s: %w", c.Attribute, err)
		}
	}
	return nil
}

func (s Spread) validate() error {
	if err := checkAttribute(s.Attribute); err != nil {
		return err
	}
	if s.Weight < 0 || s.Weight > 100 {
		return fmt.Errorf("%s: weight must be from 1 to 100", s.Attribute)
	}
	sum, seen := 0, map[string]bool{}
	for _, t := range s.Targets {
		if t.Percent < 0 || t.Percent > 100 {
			return fmt.Errorf("%s: the percent of %q must be from 0 to 100", s.Attribute, t.Value)
		}
		if seen[t.Value] {
			return fmt.Errorf("%s: there is another target %q", s.Attribute, t.Value)
		}
		seen[t.Value] = true
		sum += t.Percent
	}
	if sum > 100 {
		return fmt.Errorf("%s: its targets are %d percent together", s.Attribute, sum)
	}
	return nil
}

// place puts a job where the account's jobs are.
func (p *Placement) place(job *nomad.Job, pool string) {
	if p.Namespace != "" {
		job.Namespace = &p.Namespace
	}
	if pool != "" {
		job.NodePool = &pool
	}
	job.Datacenters = slices.Clone(p.Datacenters)
	for _, c := range p.Constraints {
		job.Constrain(nomad.NewConstraint(reference(c.Attribute), cmp.Or(c.Operator, "="), c.Value))
	}
}

// spread spreads a job's containers.
func (p *Placement) spread(job *nomad.Job) {
	for _, s := range p.Spreads {
		spread := &nomad.Spread{Attribute: reference(s.Attribute)}
		if s.Weight != 0 {
			spread.Weight = new(int8(s.Weight))
		}
		for _, t := range s.Targets {
			spread.SpreadTarget = append(spread.SpreadTarget, nomad.NewSpreadTarget(t.Value, uint8(t.Percent)))
		}
		job.Spreads = append(job.Spreads, spread)
	}
}

// dress gives a task the docker driver's settings. The job does not share them.
func (p *Placement) dress(task *nomad.Task, networkMode string) error {
	if len(p.Docker) == 0 {
		return nil
	}
	text, err := json.Marshal(p.Docker)
	if err != nil {
		return err
	}
	var settings map[string]any
	if err := json.Unmarshal(text, &settings); err != nil {
		return err
	}
	for name, value := range settings {
		if strings.HasPrefix(networkMode, "container:") && slices.Contains(ofNetwork, name) {
			continue
		}
		if block, ok := value.(map[string]any); ok {
			value = []any{block}
		}
		task.Config[name] = value
	}
	return nil
}
