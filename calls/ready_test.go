package calls

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/funcd/funcd/api"
)

func TestNextReadyWakesWhoHasWaitedLongest(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	first, known, _ := s.NextReady("f")
	require.False(t, known, "no slot of the function was ever free")
	gone, _, stopGone := s.NextReady("f")
	second, _, _ := s.NextReady("f")
	other, _, stopOther := s.NextReady("g")
	stopGone()

	for _, ready := range []<-chan struct{}{first, second} {
		s.tell(slotReady, api.Slot{Function: "f"})
		select {
		case <-ready:
		case <-time.After(10 * time.Second):
			t.Fatal("nobody was woken")
		}
	}
	for name, c := range map[string]<-chan struct{}{"one that has stopped": gone, "one of another function": other} {
		select {
		case <-c:
			t.Fatal("woken: " + name)
		default:
		}
	}
	_, known, stop := s.NextReady("f")
	require.True(t, known)
	for _, stop := range []func(){stopOther, stop} {
		stop()
	}
	require.Empty(t, s.ready.waiting)
}

// One who was woken but has what it needs does not take the slot from the next in line.
func TestNextReadyPassesOnWhatIsNotNeeded(t *testing.T) {
	t.Parallel()
	s := openStore(t, Config{})
	first, _, stopFirst := s.NextReady("f")
	second, _, stopSecond := s.NextReady("f")
	s.ready.announced("f", time.Now())
	<-first
	select {
	case <-second:
		t.Fatal("a slot serves one")
	default:
	}
	stopFirst()
	<-second
	stopSecond()
	require.Empty(t, s.ready.waiting)
}

func TestReadinessForgetsSlotsThatAreSilent(t *testing.T) {
	t.Parallel()
	r := readiness{seen: map[string]time.Time{}, waiting: map[string][]chan struct{}{}}
	now := time.Now()
	r.announced("old", now)
	for i := range 100 {
		r.announced("new", now.Add(slotMemory+time.Duration(i)))
	}
	require.NotContains(t, r.seen, "old")
	require.Contains(t, r.seen, "new")
}
