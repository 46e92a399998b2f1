package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func fs(_ int, stdin io.Reader, stdout, _ io.Writer) error {
	lines := bufio.NewScanner(stdin)
	for lines.Scan() {
		result, err := follow(strings.Fields(lines.Text()))
		var wrong *os.PathError
		if errors.As(err, &wrong) {
			result = wrong.Err.Error()
		} else if err != nil {
			return err
		}
		fmt.Fprintln(stdout, result)
	}
	return lines.Err()
}

func follow(words []string) (string, error) {
	switch {
	case len(words) == 3 && words[0] == "write":
		return "written", os.WriteFile(words[1], []byte(words[2]), 0o644)
	case len(words) == 2 && words[0] == "read":
		text, err := os.ReadFile(words[1])
		return string(text), err
	case len(words) == 2 && words[0] == "list":
		entries, err := os.ReadDir(words[1])
		names := []string{}
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		return strings.Join(names, " "), err
	}
	return "", fmt.Errorf("%q is not understood", words)
}
