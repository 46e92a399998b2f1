# What spares Nomad's servers work and memory, to be put beside their other configuration. funcd needs none of it.
telemetry {
  # Every call is a dispatched job, and Nomad would make six gauges of each, every second, for as long as it remembers it.
  disable_dispatched_job_summary_metrics = true

  # The same for each function. It takes the gauges of other jobs too. Where the host's name is part of their names (disable_hostname is
  # false), it has to be in the filter: "-nomad.<host>.nomad.job_summary".
  # disable_hostname = true
  # prefix_filter    = ["-nomad.nomad.job_summary"]
}
