# The configuration of the commands that use funcd: ~/.config/funcd/config.hcl ($XDG_CONFIG_HOME/funcd/config.hcl if that is set), or the file that
# --config or FUNCD_CONFIG names. Flags and the environment come before it. Every setting is shown with its default; those that are commented
# out have none. An unknown key is an error.

# Where funcd is: http://host:port, https://host:port or unix:///path.
addr = "http://127.0.0.1:3862"

# What funcd credential create has shown. A server of --dev needs none. With a secret key in it, this file must not be readable by others.
# access_key = "AK…"
# secret_key = "…"

# Of the signature. funcd takes any.
region = "local"

# The certificates to trust, in PEM, in place of the system's.
# ca_cert = "/etc/funcd/ca.pem"

# The name in funcd's certificate, where it is not that of the address.
# tls_server_name = "funcd.example.com"

# Trust any certificate.
tls_skip_verify = false
