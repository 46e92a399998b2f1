# funcd on Nomad itself: one server on each client, so that every container finds a socket on its own node. The programs funcd and
# funcd-runner, and the configuration, are expected in /opt/funcd on the clients.
#   nomad job run funcd.nomad.hcl
# With more than one client the servers must share a NATS cluster: set nats { url } in the configuration.
job "funcd" {
  type     = "system"
  priority = 80

  group "funcd" {
    network {
      mode = "host"
      port "http" {
        static = 3862
      }
    }

    task "funcd" {
      # The socket's directory must be the host's own, so funcd runs outside of a container.
      driver = "raw_exec"

      config {
        command = "/opt/funcd/funcd"
        args    = ["agent", "--config", "/opt/funcd/funcd.hcl"]
      }

      # Calls go on in their containers while funcd restarts.
      kill_timeout = "30s" # over stop.drain and stop.finish

      resources {
        cpu    = 500
        memory = 512
      }
    }
  }
}
