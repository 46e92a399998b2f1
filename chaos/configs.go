package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Nothing here waits longer for a leader than it must, as there is one server of each.
const nomadServerConfig = `
name                 = "server"
data_dir             = %q
bind_addr            = "127.0.0.1"
disable_update_check = true
ports {
  http = %s
  rpc  = %s
  serf = %s
}
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
consul {
  address          = %q
  auto_advertise   = false
  server_auto_join = false
}
server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1
}
`

const nomadClientConfig = `
name                 = "client"
data_dir             = %q
bind_addr            = "127.0.0.1"
disable_update_check = true
ports {
  http = %s
  rpc  = %s
  serf = %s
}
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
consul {
  address          = %q
  auto_advertise   = false
  client_auto_join = false
}
client {
  enabled = true
  servers = ["127.0.0.1:%s"]
  host_volume %q {
    path = %q
  }
  options = {
    "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean"
  }
}
plugin "docker" {
  config {
    endpoint = %q
    volumes {
      enabled = true
    }
    gc {
      image = false
      dangling_containers {
        enabled = false
      }
    }
  }
}
`

const funcdConfig = `
http      = "127.0.0.1:%s"
metrics   = "127.0.0.1:%s"
data_dir  = %q
log_level = %q
quota     = %d
slots {
  total = %d
}
runner {
  %s
}
consul {
  address = %q
}
nomad {
  address = %q
}
%s%s
docker {
  host = %q
}
callbacks {
  allow     = ["127.0.0.0/8"]
  pause     = "500ms"
  pause_max = "5s"
  attempts  = 1000
}
`

// soakLimits has what is kept of a function's calls reach its bounds within the first of a soak's minutes. JetStream holds in memory what it writes to a stream until a
// block of it is full, which is 8 MiB with the defaults: at a soak's rate that takes hours, and hides what has no end.
const soakLimits = `
limits {
  output         = 32768
  stored_outputs = 65536
  stored_logs    = 65536
  queued_bytes   = 2097152
}
`

// freePorts returns ports of 127.0.0.1 that nothing listens on now, and that the kernel gives to nobody who asks for any: they must still be
// free when a part is started again.
func freePorts(n int) ([]string, error) {
	const first, count = 20000, 12000
	var ports []string
	for range count {
		if len(ports) == n {
			return ports, nil
		}
		port := strconv.Itoa(first + rand.IntN(count))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		defer l.Close() // after all have been chosen, so that they differ
		ports = append(ports, port)
	}
	return nil, fmt.Errorf("there are no %d free ports", n)
}
