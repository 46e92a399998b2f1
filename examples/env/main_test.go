package main

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"testing"
)

func TestWhatItWasStartedWithIsPrinted(t *testing.T) { // not parallel: it sets its environment and directory
	t.Setenv("GREETING", `<"hello">`)
	t.Chdir(t.TempDir())
	var out bytes.Buffer
	if err := run([]string{"env", "a b"}, &out); err != nil {
		t.Fatal(err)
	}
	var got environment
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Args, []string{"env", "a b"}) {
		t.Errorf("Args is %q", got.Args)
	}
	if !slices.Contains(got.Env, `GREETING=<"hello">`) {
		t.Errorf("GREETING is not in Env: %q", got.Env)
	}
	if dir, _ := os.Getwd(); got.Dir != dir {
		t.Errorf("Dir is %q, want %q", got.Dir, dir)
	}
	if got.UID != os.Getuid() || got.GID != os.Getgid() {
		t.Errorf("UID and GID are %d and %d", got.UID, got.GID)
	}
}
