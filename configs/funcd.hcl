# The configuration of `funcd agent --config FILE`. Every setting is shown with its default; those that are commented out have none, or come
# from somewhere else. An unknown key is an error.
#
# A number is at least 1 and at most 1099511627776, and a time at least 1s and at most 87600h, where nothing else is said.

# Where the API listens. Clients' requests are not encrypted: keep it on a private network. "" for nowhere, where there is an https block.
http = "127.0.0.1:3862"

# Where the API listens with TLS, 1.2 or later. The certificate, with those that lead to its authority's behind it, and its key are files in PEM, which are
# looked at every 2 s: new ones are for new connections, and a pair that can't be used leaves the one before. Default: nowhere.
# https {
#   address   = "0.0.0.0:3864"
#   cert_file = "/etc/funcd/tls.crt"
#   key_file  = "/etc/funcd/tls.key"
# }

# Where GET /metrics is served, for Prometheus: funcd_calls by state, and the process's memory, goroutines and so on. Whoever can connect may read
# them. Default: nowhere.
# metrics = "127.0.0.1:3863"

# Where clients reach the API, for the links on the functions' pages in Nomad's UI. Default: http:// or, where it is not, https:// and what is above.
# api_address = "https://funcd.example"

# funcd's own files: the queue, records, logs and outputs of calls (jetstream/), and the runner for containers (runner/). One directory
# for each server.
data_dir = "./funcd-data"

# debug, info, warn or error
log_level = "info"

# Calls of one account that are being executed at once. The rest wait, first in, first out. An account whose keys state a quota of their own
# (funcd credential create --quota) has the largest of those in its place. It is at most 100000.
quota = 10

limits {
  payload = 1048576 # bytes of a call's stdin, and of any other request's body; at least 4096, at most 1048576
  output  = 1048576 # bytes of a call's stdout; at most 1048576

  # Of one account, what has not ended. One more is refused with 503.
  queued_calls = 100000
  queued_bytes = 4294967296 # at least 2097152, which hold the largest call

  # Bytes of the disk of data_dir that new calls leave free, for the results and logs of those that are there: with less they are refused with 503, and
  # with half of it those that are queued are not started, as their results may be larger than they are. 0 for no such bound. Where calls are kept on a
  # NATS cluster, its servers' own bounds count.
  disk_free = 268435456

  # Containers that are started for one call, one after another with a growing pause of at most 16 s, until one takes it: what keeps a
  # container from starting may pass. What stays, such as an image that does not exist, fails the call at once.
  starts = 6

  # Kept for each function, in bytes. The oldest make room. Of a function that is called all the time some is in memory, too, up to 8 MiB of each; with less than
  # 33554432 up to 4 MiB.
  stored_outputs = 52428800 # at least limits.output and 4096
  stored_logs    = 52428800 # at least 65536

  # Of calls whose answer nobody fetches: an output is kept for so long, and /output answers 410 from then on; how the call has ended is known for so long, and
  # of so many calls of each function, the oldest of which go first, and /output answers 404 from then on.
  output_time     = "72h"
  unfetched_time  = "168h" # at least twice limits.call_lease
  unfetched_calls = 100000

  # What a function's label funcd.keep may say at most, and how many of its fetched calls are kept. The oldest make room.
  kept_time  = "720h"
  kept_calls = 10000

  # Open connections of a listener, at least 16. More wait until others have ended; those on which nothing is asked for idle_time do.
  connections = 20000
  idle_time   = "2m"

  # How long a request's first line and headers may take to come, as a TLS handshake may, and how many bytes they may be: at least 4096 and at most 65536, as a
  # call's headers travel with it. Who takes longer is hung up on, and who sends more is answered with 431.
  header_time = "10s"
  headers     = 65536

  # In which 64 KiB of a request's body must come, or its end: who sends less is answered with 408. A body may take longer as a whole.
  body_time = "1m"

  # In which 64 KiB of an answer must be taken: who asks and does not read is hung up on. An answer itself may take as long as it likes.
  write_time = "1m"

  # How long the calls of a server that is not heard of stay with it, before another one takes them over. With the embedded store there is
  # no other: a server that starts takes up its own calls at once. It is at least 3s, as a server must be able to say in time that it is there still.
  call_lease = "20s"

  # Images that one account has the cluster pull at once, on one server, and how long a pull may take.
  pulls     = 3
  pull_time = "10m"

  # The pause before a call of a function with funcd.retries is tried again, doubled each time up to the second.
  retry_pause     = "1s" # at least 100ms
  retry_pause_max = "5m" # at least limits.retry_pause

  # What is left of a function that Consul does not have any more (its job, the outputs and logs of its calls) is removed after so long.
  orphan_time = "1h"
}

# Calls of a function with the same Idempotency-Key are one call.
idempotency {
  time = "24h"   # for so long after the first
  keys = 1000000 # of one account; a call with one more is refused with 503, until the time of others has passed
}

# Dead letters: calls of functions with funcd.retries or funcd.dead that have failed for good, kept with their payloads for `funcd dead`. The
# bounds are those of one account; the oldest make room.
dead {
  calls = 10000
  bytes = 1073741824 # at least 2097152, which hold the largest call
  time  = "336h"
}

# Results that are sent to the URLs of functions with the label funcd.callback, by http or https.
callbacks {
  # They go to public addresses alone, whatever a name resolves to: not to loopback, link-local, private, shared (100.64.0.0/10), multicast,
  # unspecified or reserved ones, in whatever form (NAT64, 6to4, Teredo, IPv4 within IPv6), but to those of these networks. No proxy is used,
  # and no redirect is followed.
  allow = [] # such as ["10.1.0.0/16", "fd00:1::/64"]

  concurrent = 8     # of one account at once, on one server; other accounts do not wait for it
  timeout    = "10s" # of one attempt
  attempts   = 12    # with the pauses below some two and a half hours; then a callback is given up, and the call's log says so
  pause      = "5s"  # after the first attempt, doubled each time; at least 100ms
  pause_max  = "1h"  # at least callbacks.pause

  # Of one account, what waits to be delivered. The results of further calls are not sent, and their logs say so.
  calls = 10000
  bytes = 1073741824 # at least 2097152, which hold the largest output
}

# Containers that are started ahead of calls, each for one call unless the function asks for funcd.reuse. A function gets as many as its label
# funcd.warm says, else as many as calls arrive while a container starts. They hold their size's cpu and memory while they wait, and are given
# up when a call has no place in the cluster.
slots {
  function = 10  # at most of one function
  account  = 20  # at most of one account
  total    = 100 # at most in the cluster; 0, as with the others, for none at all

  # Without a call for so long, a function without the label has none. funcd.idle is a function's own.
  idle = "5m"
}

# What happens at SIGTERM and SIGINT. With --dev both are "0s", as they may be.
stop {
  # For so long GET /readyz answers 503 and the server is out of Consul's catalog, while it answers all requests as before: load balancers hear of
  # it before its listener is closed. It should be longer than they take between two checks. "0s" for not at all.
  drain = "5s"

  # For so long after that, requests that have begun may go on, such as synchronous calls. Then waits end with 503, and calls that run are
  # handed to the next server with their containers. "0s" for at once.
  finish = "15s"
}

# How a container gets funcd-runner, the program that is pid 1 in it, and reaches funcd.
runner {
  # socket: a directory of the client is mounted at /funcd. Needs `volumes { enabled = true }` in the docker plugin's configuration on
  #   the clients, and a funcd on each of them. No network between the container and funcd.
  # http: an artifact block downloads it from funcd's address. Needs nothing on the clients.
  mode = "socket"

  # mode "socket": the directory, made by funcd. Default: runner/ in data_dir. The path of the socket in it, funcd.sock, has room for 107 bytes, as Linux has.
  # socket_dir = "/opt/funcd/runner"

  # mode "http": where containers reach this server.
  # address = "http://10.0.0.5:3862"

  # mode "http" with an address of https://: the certificates that the runner trusts, in PEM, as few images have any. They are in the functions' jobs. The
  # clients download without, as they know the checksum.
  # ca_file = "/etc/funcd/ca.pem"

  # How long containers wait for a funcd server when all are away: one whose function has ended to hand in the result, one without a call to ask for one.
  # After that it ends, and its call fails.
  patience = "10m"

  # The program. Default: funcd-runner beside the funcd program.
  # path = "/usr/local/lib/funcd/funcd-runner"
}

# Where functions and credentials are kept, and funcd is found. The address, the token and TLS come from Consul's own environment
# variables where they are not set here: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_CACERT, … configs/consul-policy.hcl is what the token
# must allow.
consul {
  # address = "http://127.0.0.1:8500"
  # token   = ""
  prefix  = "funcd" # of the keys
  service = "funcd" # the name that funcd registers as
}

# Where calls run. The address, the token and TLS come from Nomad's own environment variables where they are not set here: NOMAD_ADDR,
# NOMAD_TOKEN, NOMAD_CACERT, … configs/nomad-policy.hcl is what the token must allow.
nomad {
  # address   = "http://127.0.0.1:4646"
  # token     = ""
  # region    = "global"
  # namespace = "default"
  # node_pool = "default"
  datacenters = ["*"]
  priority    = 50

  # The max_kill_timeout of the clients: the most that a function has between its StopSignal and SIGKILL.
  max_kill_timeout = "30s"

  # Processes and threads in one container, of which the runner has some: at least 32. 0: the clients' own limit.
  pids_limit = 1024

  # The jobs of containers that have ended stay to be looked at for so long, and at most so many of each function; then they are purged.
  # Nomad itself would keep each for 4 hours, in its servers' memory.
  dead_time  = "1h"
  dead_jobs  = 500 # 0 for none
  purge_rate = 50 # in a second, at most

  # Capabilities that no container has, such as "net_raw" or "all", beside those that Docker and the clients' docker plugin take from every one.
  # No container gains privileges (no-new-privileges) or has Docker's socket, whatever is set here.
  cap_drop = []

  # Where people reach Nomad's UI, for `funcd open`. Default: the address that funcd uses.
  # ui_address = "https://nomad.example"

  # The host_network of the clients on whose address ports are published. One with several addresses on a node has a fixed port once for each.
  # host_network = "default"

  # Whether the clients are given the logins for registries: those of the registry blocks below for their accounts' functions and pulls, and the one that
  # comes with POST /images/create. They go through Nomad Variables, which are encrypted, and which the tasks of the one job may read; no job shows
  # them. Without, clients pull with the logins in their own docker plugin's configuration alone.
  variables = true
}

# Where calls are kept. Without a URL: in a NATS JetStream server inside funcd, which opens no port and syncs every call to the disk.
# The servers of a cluster need JetStream, a max_payload of 2162688 or more, and `sync_interval: always` if calls are to survive that all of them
# lose their power at once. 3 replicas survive the loss of one; they are at most 5, and without a URL 1.
nats {
  # url = "nats://nats-1:4222,nats://nats-2:4222,nats://nats-3:4222"
  replicas = 1
}

# The Docker daemon that is asked first when a function is created: an image that it has need not be in a registry. Where it does not
# answer, the registry alone is asked. Every account may use every image that it has.
docker {
  host = "unix:///var/run/docker.sock"
}

# Logins for registries, with which images are looked up and pulled. Without an account it is for all that have none of their own. A password_file is
# read at each use, so that a password may change. For registries that are not here, the logins of Docker's configuration file are used, those
# of `docker login` by the user that funcd runs as: by all accounts.
#
# registry "registry.example.com" {
#   account       = "team"
#   username      = "funcd"
#   password      = ""
#   password_file = "/etc/funcd/registry-password"
# }

# What an account's functions may ask for. What the block "*" sets is for all accounts, unless their own block sets it. A function that asks for
# what is false is refused with 403 and the name of the switch; those that are there already stay.
account "*" {
  # Whether /call, /output, /logs and /status must be signed too, by any key of the function's account: one that was made with --call-only is
  # enough. Without, whoever knows the function's UUID may call.
  signed_calls = false

  allow {
    host_networking      = true # NetworkMode host: all that listens on the nodes' loopback is within reach, as Nomad and Consul without ACLs
    container_networking = true # NetworkMode container:<name|id>: the network of any container of the node
    fixed_ports          = true # PortBindings with a HostPort: any port of the nodes that is free
    volumes_from         = true # VolumesFrom: the host and CSI volumes of any job in the namespace
    stop_signal_sigkill  = true # StopSignal SIGKILL: a function that is stopped without a word
  }
}

# account "team" {
#   allow {
#     host_networking = false
#   }
#
#   # Where the account's functions and pulls are in Nomad. What is not set is as in the block of "*", and what is not set there as in the nomad block above. A
#   # namespace, node pool or datacenter that Nomad has not, or a constraint that is none, is an error at the start. Change a namespace while the account has no
#   # calls: those that run in the old one fail. Links, VolumesFrom and logins are those of the namespace.
#   nomad {
#     namespace   = "team"
#     node_pool   = "team"
#     datacenters = ["dc1", "eu-*"]
#     priority    = 40
#
#     # Which nodes, by their attributes: attr.…, meta.… and node.…, as in a job file without the braces. Operators are those of Nomad, = if there is none.
#     constraint {
#       attribute = "meta.rack"
#       operator  = "regexp"
#       value     = "^r[12]$"
#     }
#
#     # Over which values of an attribute calls are spread.
#     spread {
#       attribute = "node.datacenter"
#       weight    = 80
#       target "dc1" {
#         percent = 70
#       }
#     }
#
#     # What the docker driver's configuration has for each container, beside what funcd says: cgroupns, container_exists_attempts, cpu_cfs_period,
#     # cpu_hard_limit, devices, dns_options, dns_search_domains, dns_servers, extra_hosts, group_add, image_pull_timeout, logging, oom_score_adj,
#     # readonly_rootfs, runtime, shm_size, storage_opt, sysctl, ulimit. A block is an object. No environment: it would be read by all who may read jobs.
#     docker = {
#       dns_servers = ["10.0.0.53"]
#       ulimit      = { nofile = "4096:8192" }
#     }
#   }
# }

# What a ContainerSize reserves: cpu in MHz, or whole cores, and memory in MB, which is a hard limit. Those that are not named keep the
# defaults: s1 100/64, s2 200/128, s3 300/256, s4 500/512, m1 1000/1024, m2 2000/2048, m3 2000/4096, l1 4000/4096, l2 4000/8192,
# l3 8000/16384. funcd adds 10 MB for its runner. With memory_max it may have more while the client has it to spare, up to that limit; it needs Nomad's
# memory oversubscription, and is ignored without. Calls of a size with a node_pool run there, whatever their account's is.
#
# size "l3" {
#   cores      = 8
#   memory     = 16384
#   memory_max = 24576
#   node_pool  = "large"
# }
