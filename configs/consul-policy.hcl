# What funcd's Consul token must allow, with the default prefix and service name.
#   consul acl policy create -name funcd -rules @consul-policy.hcl
key_prefix "funcd/" {
  policy = "write"
}

# A lock decides which server repairs what the cluster has lost.
session_prefix "" {
  policy = "write"
}

service "funcd" {
  policy = "write"
}

# Links find services by their names.
service_prefix "" {
  policy = "read"
}

node_prefix "" {
  policy = "read"
}
