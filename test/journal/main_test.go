package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestJournal(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "journal")
	var first, second bytes.Buffer
	require.NoError(t, run(file, strings.NewReader("7 1"), &first))
	require.NoError(t, run(file, strings.NewReader("8 0 0"), &second))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "start 7\nwrote 7 "+first.String()+"start 8\nwrote 8 "+second.String(), string(text))
	require.Greater(t, first.Len(), 20)
	require.NotEqual(t, first.String(), second.String())
}

func TestJournalThatCannotBeWrittenHasNoOutput(t *testing.T) {
	t.Parallel()
	var stdout bytes.Buffer
	require.Error(t, run(t.TempDir()+"/none/journal", strings.NewReader("7 1"), &stdout))
	require.Error(t, run(t.TempDir()+"/journal", strings.NewReader("seven"), &stdout))
	require.Empty(t, stdout.String())
}

func TestJournalFailsAsOftenAsItIsTold(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "journal")
	var stdout bytes.Buffer
	require.NoError(t, run(file, strings.NewReader("17 0 0"), &stdout), "another number")
	stdout.Reset()
	for range 2 {
		require.ErrorContains(t, run(file, strings.NewReader("7 0 2"), &stdout), "of 2 that fail")
	}
	require.Empty(t, stdout.String())
	require.NoError(t, run(file, strings.NewReader("7 0 2"), &stdout))
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "start 7\nstart 7\nstart 7\nwrote 7 "+stdout.String(), string(text)[strings.Index(string(text), "start 7\n"):])
}
