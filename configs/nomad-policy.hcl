# What funcd's Nomad token must allow, in the namespace that functions run in.
#   nomad acl policy apply funcd nomad-policy.hcl
namespace "default" {
  # list-jobs, read-job: what has become of calls. submit-job, dispatch-job: functions and their calls, and their end.
  capabilities = ["list-jobs", "read-job", "submit-job", "dispatch-job"]
}

# What the cluster has for functions, for /info.
node {
  policy = "read"
}
