# What funcd needs of a Nomad client, to be put beside its other configuration. Only runner mode "socket" needs the volumes.
plugin "docker" {
  config {
    volumes {
      enabled = true
    }
  }
}
