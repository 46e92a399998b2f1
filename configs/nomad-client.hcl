# What funcd needs of a Nomad client, to be put beside its other configuration. Only runner mode "socket" needs the volumes.
#
# What else of the docker plugin's configuration matters:
#   gc { image_delay = "3m" }  is how long an image stays after its last container has ended, and so after POST /images/create has pulled it.
#   auth { config = "…" }      are logins for registries that no job and no funcd needs to know.
plugin "docker" {
  config {
    volumes {
      enabled = true
    }
  }
}
