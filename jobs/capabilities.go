package jobs

import (
	"fmt"
	"slices"
	"strings"
)

// capabilities are Linux's, see capabilities(7), and all.
var capabilities = []string{
	"all", "audit_control", "audit_read", "audit_write", "block_suspend", "bpf", "checkpoint_restore", "chown", "dac_override", "dac_read_search",
	"fowner", "fsetid", "ipc_lock", "ipc_owner", "kill", "lease", "linux_immutable", "mac_admin", "mac_override", "mknod", "net_admin",
	"net_bind_service", "net_broadcast", "net_raw", "perfmon", "setfcap", "setgid", "setpcap", "setuid", "sys_admin", "sys_boot", "sys_chroot",
	"sys_module", "sys_nice", "sys_pacct", "sys_ptrace", "sys_rawio", "sys_resource", "sys_time", "sys_tty_config", "syslog", "wake_alarm",
}

// Capability returns a capability's name as Nomad writes it. It may be given as CAP_NET_RAW too. An unknown one is an error.
func Capability(name string) (string, error) {
	plain := strings.TrimPrefix(strings.ToLower(name), "cap_")
	if !slices.Contains(capabilities, plain) {
		return "", fmt.Errorf("%q is not a capability of Linux, such as net_raw", name)
	}
	return plain, nil
}
