package api

import (
	"bufio"
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func FuzzReadMessage(f *testing.F) {
	var one bytes.Buffer
	require.NoError(f, WriteMessage(bufio.NewWriter(&one), MessageCall, Assignment{CallID: "c"}, []byte("in")))
	f.Add(one.Bytes(), 2)
	f.Add([]byte("b\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
	f.Add([]byte("r\xff\xff\xff\xff\xff\xff\xff\xff"), 1<<20)
	f.Fuzz(func(t *testing.T, text []byte, maxBody int) {
		if maxBody < 0 || maxBody > 1<<20 {
			return
		}
		kind, head, body, err := ReadMessage(bufio.NewReader(bytes.NewReader(text)), maxBody)
		if err != nil {
			require.True(t, CodeOf(err) == TooLarge || len(text) < 9 || bytes.Contains([]byte(err.Error()), []byte(io.EOF.Error())) ||
				bytes.Contains([]byte(err.Error()), []byte("unexpected EOF")), "%v", err)
			return
		}
		require.LessOrEqual(t, len(body), maxBody)
		require.Equal(t, text[0], kind)
		require.Equal(t, text[9:9+len(head)+len(body)], append(bytes.Clone(head), body...))
	})
}
