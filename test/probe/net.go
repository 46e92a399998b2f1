package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
)

// listen answers each line that comes to the port, over TCP or UDP, with the protocol and the name of the host, until one says "end".
func listen(port int, _ io.Reader, stdout, _ io.Writer) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	address := fmt.Sprintf(":%d", port)
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	defer udp.Close()
	ended := make(chan error, 2)
	go func() { ended <- overTCP(tcp, host) }()
	go func() { ended <- overUDP(udp, host) }()
	if err := <-ended; err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, "ended")
	return err
}

const end = "end"

func overTCP(listener net.Listener, host string) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err == nil {
			_, err = fmt.Fprintf(conn, "tcp %s\n", host)
		}
		conn.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if strings.TrimSpace(line) == end {
			return nil
		}
	}
}

func overUDP(conn net.PacketConn, host string) error {
	buffer := make([]byte, 1024)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(fmt.Appendf(nil, "udp %s\n", host), from); err != nil {
			return err
		}
		if strings.TrimSpace(string(buffer[:n])) == end {
			return nil
		}
	}
}

// interfaces prints the network interfaces and their IPv4 addresses, a line each.
func interfaces(_ int, _ io.Reader, stdout, _ io.Writer) error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, one := range all {
		addresses, err := one.Addrs()
		if err != nil {
			return err
		}
		words := []string{one.Name}
		for _, address := range addresses {
			if ip, ok := address.(*net.IPNet); ok && ip.IP.To4() != nil {
				words = append(words, ip.IP.String())
			}
		}
		fmt.Fprintln(stdout, strings.Join(words, " "))
	}
	return nil
}

func dial(port int, stdin io.Reader, stdout, _ io.Writer) error {
	host, err := io.ReadAll(stdin)
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", net.JoinHostPort(string(host), strconv.Itoa(port)))
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return err
	}
	_, err = io.Copy(stdout, conn)
	return err
}

func hosts(_ int, _ io.Reader, stdout, _ io.Writer) error {
	text, err := os.ReadFile("/etc/hosts")
	if err != nil {
		return err
	}
	_, err = stdout.Write(text)
	return err
}
