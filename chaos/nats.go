package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// natsVariable makes this program a NATS server, with the configuration file that it names: nothing else need be installed.
const natsVariable = "FUNCD_CHAOS_NATS"

// natsMain is a NATS server, if this process is to be one.
func natsMain() bool {
	file := os.Getenv(natsVariable)
	if file == "" {
		return false
	}
	options, err := server.ProcessConfigFile(file)
	if err == nil {
		var s *server.Server
		if s, err = server.NewServer(options); err == nil {
			s.ConfigureLogger()
			s.Start()
			s.WaitForShutdown()
			return true
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
	return true
}

const natsConfig = `
server_name: n%[1]d
listen: "127.0.0.1:%[2]s"
max_payload: 4MB
jetstream { store_dir: %[3]q, sync_interval: always }
cluster { name: chaos, listen: "127.0.0.1:%[4]s", routes: [%[5]s] }
`

const natsServers = 3

// nats describes the servers of a cluster.
func (s *stack) nats(dir string) ([]*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2 * natsServers)
	if err != nil {
		return nil, err
	}
	var routes, urls []string
	for i := range natsServers {
		routes = append(routes, strconv.Quote("nats://127.0.0.1:"+ports[natsServers+i]))
		urls = append(urls, "nats://127.0.0.1:"+ports[i])
	}
	s.natsURL = strings.Join(urls, ",")
	var all []*process
	for i := range natsServers {
		name := fmt.Sprintf("nats-%d", i+1)
		file := filepath.Join(dir, name+".conf")
		text := fmt.Sprintf(natsConfig, i+1, ports[i], filepath.Join(dir, name), ports[natsServers+i], strings.Join(routes, ", "))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		all = append(all, s.process(name, []string{self}, natsVariable+"="+file))
	}
	return all, nil
}
