# What funcd's Nomad token must allow, in the namespace that functions run in: one such block for each where accounts have their own.
#   nomad acl policy apply funcd nomad-policy.hcl
namespace "default" {
  # list-jobs, read-job: what has become of calls. submit-job, dispatch-job: functions and their calls, and their end.
  capabilities = ["list-jobs", "read-job", "submit-job", "dispatch-job"]

  # Logins for registries on their way to the clients, with nomad.variables in funcd's configuration. They are not read back.
  variables {
    path "nomad/jobs/func-*" {
      capabilities = ["list", "write", "destroy"]
    }
    path "nomad/jobs/funcd-pull-*" {
      capabilities = ["list", "write", "destroy"]
    }
  }
}

# What the cluster has for functions, for /info, and which host volumes hold Docker's socket.
node {
  policy = "read"
}

# Only for functions with VolumesFrom: the host volumes that they may have. CSI volumes need the capability csi-mount-volume above.
# host_volume "*" {
#   policy = "write"
# }
