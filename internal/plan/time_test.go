package plan

import (
	"errors"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests need Berlin wherever they run

	"github.com/stretchr/testify/require"
)

func berlin(t testing.TB) *time.Location {
	loc, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	return loc
}

func TestParseTime(t *testing.T) {
	loc := berlin(t)
	now := time.Date(2026, 11, 23, 15, 4, 5, 678e6, time.UTC) // 16:04:05.678 in Berlin
	rows := []struct{ text, want string }{
		{"now", "2026-11-23T15:04:05.678Z"},
		{" NOW ", "2026-11-23T15:04:05.678Z"},
		{"2026-11-22T14:00:00Z", "2026-11-22T14:00:00Z"},
		{"2026-11-22t14:00:00.25z", "2026-11-22T14:00:00.25Z"},
		{"2026-11-22T14:00:00+05:30", "2026-11-22T08:30:00Z"},
		{"2026-11-22 14:00:00", "2026-11-22T13:00:00Z"},
		{"2026-11-22 14:00:00.250", "2026-11-22T13:00:00.25Z"},
		{"2026-07-22 14:00:00", "2026-07-22T12:00:00Z"}, // summer
		{"1732370645", "2024-11-23T14:04:05Z"},
		{"1732370645678", "2024-11-23T14:04:05.678Z"},
		{"0", "1970-01-01T00:00:00Z"},
		{"5m ago", "2026-11-23T14:59:05.678Z"},
		{"500ms ago", "2026-11-23T15:04:05.178Z"},
		{"1h30m ago", "2026-11-23T13:34:05.678Z"},
		{"1w2d3h4m5s678ms ago", "2026-11-14T12:00:00Z"},
		{"0s ago", "2026-11-23T15:04:05.678Z"},
		{"yesterday 14:00", "2026-11-22T13:00:00Z"},
		{"Yesterday 14:00:30", "2026-11-22T13:00:30Z"},
		{"yesterday 14:00:30.125", "2026-11-22T13:00:30.125Z"},
		{"today 9:00", "2026-11-23T08:00:00Z"},
		{"today 00:00", "2026-11-22T23:00:00Z"},
	}
	for _, r := range rows {
		got, err := ParseTime(r.text, now, loc)
		require.NoError(t, err, r.text)
		require.Equal(t, r.want, got.UTC().Format(time.RFC3339Nano), r.text)
	}
}

func TestYesterdayOverTheMonthAndTheZone(t *testing.T) {
	// 23:30 in UTC is already the first of March in Berlin.
	now := time.Date(2028, 2, 29, 23, 30, 0, 0, time.UTC)
	got, err := ParseTime("yesterday 14:00", now, berlin(t))
	require.NoError(t, err)
	require.Equal(t, "2028-02-29T13:00:00Z", got.UTC().Format(time.RFC3339))
}

// What a peer's parser took for "now", or for another time than was meant, is refused here.
func TestParseTimeDoesNotGuess(t *testing.T) {
	loc := berlin(t)
	now := time.Date(2026, 11, 23, 15, 4, 5, 0, time.UTC)
	for _, text := range []string{
		"", " ", "flushall", "noon", "tomorrow 14:00", "yesterday", "today", "yesterday at 14:00", "yesterday 25:00",
		"yesterday 14", "yesterday 14:0", "yesterday 14:00Z", "yesterday 14:00:00,5", "monday 14:00",
		"5m", "m ago", "5 ago", "5 m ago", "5 minutes ago", "-5m ago", "5m5m ago", "5m1h ago", "1.5h ago", "1y ago", " ago", "ago",
		"99999999999999999999s ago", "300000000000w ago",
		"2026-11-22", "2026-11-22 14:00", "2026-11-22T14:00:00", "2026-11-22 14:00:00Z", "2026-11-22 14:00:00 CET",
		"2026-11-22  14:00:00", "2026-13-22 14:00:00", "2026-02-30 14:00:00", "22.11.2026 14:00:00", "2026-11-22 24:00:00",
		"2026-11-22T4:00:00Z", "2026-11-22T14:00:00,5Z", "2026-11-22T14:00:60Z", "2026-11-22 14:00:00,250", "2026-11-22 4:00:00",
		"17323706456", "17323706456789", "1732370645678000000", "-1732370645", "1732370645.5", "0x10", "٣",
	} {
		got, err := ParseTime(text, now, loc)
		var syntax *SyntaxError
		require.ErrorAs(t, err, &syntax, "%q was taken for %v", text, got)
		require.Contains(t, syntax.Hint(), "yesterday 14:00", text)
		require.Contains(t, err.Error(), strings.TrimSpace(text))
	}
}

func TestLocalTimesThatOccurTwiceOrNever(t *testing.T) {
	loc := berlin(t)
	now := time.Date(2026, 3, 30, 12, 0, 0, 0, time.UTC)

	for _, text := range []string{"2026-03-29 02:00:00", "2026-03-29 02:30:00", "2026-03-29 02:59:59.999", "yesterday 02:30"} {
		_, err := ParseTime(text, now, loc)
		require.ErrorContains(t, err, "never was in Europe/Berlin: clocks were put forward from 02:00:00 to 03:00:00", text)
	}
	for text, want := range map[string]string{
		"2026-03-29 01:59:59": "2026-03-29T00:59:59Z", "2026-03-29 03:00:00": "2026-03-29T01:00:00Z",
		"2026-10-25 01:59:59": "2026-10-24T23:59:59Z", "2026-10-25 03:00:00": "2026-10-25T02:00:00Z",
	} {
		got, err := ParseTime(text, now, loc)
		require.NoError(t, err)
		require.Equal(t, want, got.UTC().Format(time.RFC3339), text)
	}
	for _, text := range []string{"2026-10-25 02:00:00", "2026-10-25 02:30:00", "2026-10-25 02:59:59"} {
		_, err := ParseTime(text, now, loc)
		require.ErrorContains(t, err, "occurs twice in Europe/Berlin", text)
		clock := strings.Fields(text)[1]
		for _, instant := range []string{"2026-10-25T" + clock + "+02:00", "2026-10-25T" + clock + "+01:00"} {
			require.ErrorContains(t, err, instant)
			var syntax *SyntaxError
			require.ErrorAs(t, err, &syntax)
			require.Contains(t, syntax.Hint(), instant)
			_, err := ParseTime(instant, now, loc) // what the hint says is accepted
			require.NoError(t, err)
		}
	}
}

// FuzzParseTime holds against every text that what was understood means the same when it is said
// exactly, and that nothing is understood that has no digit and isn't "now".
func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"now", "5m ago", "1h30m ago", "yesterday 14:00", "2026-10-25 02:30:00", "2026-11-22T14:00:00.250Z", "1732370645678"} {
		f.Add(s)
	}
	loc := berlin(f)
	now := time.Date(2026, 11, 23, 15, 4, 5, 678e6, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTime(s, now, loc)
		if err != nil {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		if !strings.ContainsAny(s, "0123456789") && !strings.EqualFold(strings.TrimSpace(s), "now") {
			t.Fatalf("%q was taken for %v", s, got)
		}
		if y := got.UTC().Year(); y < 1 || y > 9998 {
			return // RFC 3339 has four digits
		}
		again, err := ParseTime(got.UTC().Format(time.RFC3339Nano), now, loc)
		if err != nil || !again.Equal(got) {
			t.Fatalf("%q was taken for %v, and that for %v (%v)", s, got, again, err)
		}
	})
}
