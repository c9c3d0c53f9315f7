package schedule

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, s)
	require.NoError(t, err)
	return v
}

// Berlin's clocks go forward on 2026-03-29 from 02:00 to 03:00, and back on 2026-10-25 from 03:00
// to 02:00. What is due then runs once; what is due in every hour, in every hour that passes.
func TestNextOverDaylightSavingTime(t *testing.T) {
	for _, row := range []struct {
		line, after string
		want        []string
	}{
		{"30 2 * * *", "2026-03-28T00:00:00+01:00", []string{"2026-03-28T02:30:00+01:00", "2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00"}},
		{"30 2 * * *", "2026-10-24T12:00:00+02:00", []string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
		// Asked between the two, and after the second.
		{"30 2 * * *", "2026-10-25T02:10:00+01:00", []string{"2026-10-26T02:30:00+01:00"}},
		{"30 2 * * *", "2026-10-25T02:30:00+01:00", []string{"2026-10-26T02:30:00+01:00"}},
		{"0 4 * * *", "2026-03-28T12:00:00+01:00", []string{"2026-03-29T04:00:00+02:00", "2026-03-30T04:00:00+02:00"}},
		{"0 4 * * *", "2026-10-24T12:00:00+02:00", []string{"2026-10-25T04:00:00+01:00"}},
		{"0 * * * *", "2026-03-29T00:30:00+01:00", []string{"2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"}},
		{"0 * * * *", "2026-10-25T01:30:00+02:00", []string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"}},
		{"*/30 * * * *", "2026-10-25T02:10:00+02:00", []string{"2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T02:30:00+01:00"}},
		// Due at 02:00 and 03:00, which is one moment in spring.
		{"0 2,3 * * *", "2026-03-29T00:00:00+01:00", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00"}},
		{"15,45 2,3 * * *", "2026-03-29T00:00:00+01:00", []string{"2026-03-29T03:15:00+02:00", "2026-03-29T03:45:00+02:00", "2026-03-30T02:15:00+02:00"}},
		{"0 */2 * * *", "2026-10-25T00:30:00+02:00", []string{"2026-10-25T02:00:00+02:00", "2026-10-25T04:00:00+01:00"}},
		{"@daily", "2026-10-24T23:30:00+02:00", []string{"2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"}},
		{"@every 6h", "2026-10-24T23:30:00+02:00", []string{"2026-10-25T04:30:00+01:00", "2026-10-25T10:30:00+01:00"}},
	} {
		t.Run(row.line+" after "+row.after, func(t *testing.T) {
			s, err := Parse("TZ=Europe/Berlin " + row.line)
			require.NoError(t, err)
			next := at(t, row.after)
			for _, want := range row.want {
				next = s.Next(next)
				require.Equal(t, want, next.Format(time.RFC3339))
			}
		})
	}
}

// Zones that change by half an hour, at midnight, and once by a whole day.
func TestNextInOddZones(t *testing.T) {
	for _, row := range []struct{ zone, line, after, want string }{
		{"Australia/Lord_Howe", "20,35 2 * * *", "2026-10-04T00:00:00+10:30", "2026-10-04T02:35:00+11:00"}, // 02:00 to 02:30 is skipped; 02:20 comes at 02:50
		{"Australia/Lord_Howe", "20 2 * * *", "2026-10-04T00:00:00+10:30", "2026-10-04T02:50:00+11:00"},
		{"America/Santiago", "0 0 * * *", "2026-09-05T12:00:00-04:00", "2026-09-06T01:00:00-03:00"}, // midnight is skipped
		{"Pacific/Apia", "0 4 * * *", "2011-12-29T12:00:00-10:00", "2011-12-31T04:00:00+14:00"},     // there was no 30 December
		{"Asia/Kathmandu", "0 4 * * *", "2026-01-01T00:00:00+05:45", "2026-01-01T04:00:00+05:45"},
	} {
		s, err := Parse("CRON_TZ=" + row.zone + " " + row.line)
		require.NoError(t, err)
		require.Equal(t, row.want, s.Next(at(t, row.after)).Format(time.RFC3339), "%s %s", row.zone, row.line)
	}
}

// In any zone, what is due at one time a day runs once on every day that has begun and ended.
func TestNextRunsOnceADay(t *testing.T) {
	zones := []string{"Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Tehran", "UTC"}
	rapid.Check(t, func(t *rapid.T) {
		hour, minute := rapid.IntRange(0, 23).Draw(t, "hour"), rapid.IntRange(0, 59).Draw(t, "minute")
		name := rapid.SampledFrom(zones).Draw(t, "zone")
		s, err := Parse(fmt.Sprintf("TZ=%s %d %d * * *", name, minute, hour))
		require.NoError(t, err)
		zone, err := time.LoadLocation(name)
		require.NoError(t, err)
		day := time.Date(2015+rapid.IntRange(0, 20).Draw(t, "year"), time.Month(rapid.IntRange(1, 12).Draw(t, "month")), 1, 12, 0, 0, 0, zone) // noon: no clock is changed then
		last := time.Date(day.Year(), day.Month(), 1, 0, 0, 0, 0, zone).Add(-time.Nanosecond)                                                  // not noon less 12 h: a clock may be changed between
		for range 62 {
			next := s.Next(last)
			require.True(t, next.After(last))
			require.Equal(t, day.Format(time.DateOnly), next.Format(time.DateOnly), "each day, once")
			if h, m, _ := next.Clock(); h != hour || m != minute {
				_, before := next.Add(-24 * time.Hour).Zone()
				_, behind := next.Zone()
				require.Greater(t, behind, before, "%v is not %02d:%02d, and no clock was put forward", next, hour, minute)
			}
			last, day = next, day.AddDate(0, 0, 1)
		}
	})
}

// What is due in every hour knows no daylight saving time.
func TestNextInEveryHour(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		minute := rapid.IntRange(0, 59).Draw(t, "minute")
		s, err := Parse(fmt.Sprintf("TZ=Europe/Berlin %d * * * *", minute))
		require.NoError(t, err)
		last := s.Next(time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "from"), 0))
		for range 24 * 8 {
			next := s.Next(last)
			require.Equal(t, time.Hour, next.Sub(last))
			last = next
		}
	})
}

// A day in October has 25 hours, and a weekend is longer than a night.
func TestLongest(t *testing.T) {
	for line, want := range map[string]time.Duration{
		"TZ=UTC 0 4 * * *":           24 * time.Hour,
		"TZ=Europe/Berlin 0 4 * * *": 25 * time.Hour,
		"TZ=UTC 0 9-17 * * 1-5":      64 * time.Hour,
		"TZ=UTC */7 * * * *":         7 * time.Minute,
		"@every 6h":                  6 * time.Hour,
		"@every 5s":                  5 * time.Second,
		"TZ=UTC @monthly":            31 * 24 * time.Hour,
	} {
		s, err := Parse(line)
		require.NoError(t, err)
		require.Equal(t, want, s.Longest(), line)
	}
	require.Zero(t, Schedule{}.Longest())
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "it has 0 fields, a schedule has 5",
		"0 4 * *":                      "it has 4 fields",
		"0 0 4 * * *":                  "it has 6 fields",
		"60 4 * * *":                   `its minute is "60": say 0 to 59`,
		"0 24 * * *":                   `its hour is "24": say 0 to 23`,
		"0 4 0 * *":                    `its day of the month is "0": say 1 to 31`,
		"0 4 * 13 *":                   `its month is "13"`,
		"0 4 * * 7":                    `its day of the week is "7": say 0 (Sunday) to 6`,
		"0 4 * * MOON":                 `its day of the week is "MOON"`,
		"*/0 * * * *":                  `its minute is "*/0"`,
		"5- * * * *":                   `its minute is "5-"`,
		", * * * *":                    `its minute is ","`,
		"1,,2 4, * * *":                `its hour is "4,"`,
		"-5 * * * *":                   `its minute is "-5"`,
		"0 0 31 2 *":                   "there is no such day, so it would never run",
		"@sometimes":                   "there is @hourly, @daily",
		"@every":                       "there is @hourly, @daily",
		"@every soon":                  "there is @hourly, @daily",
		"@every 500ms":                 "the shortest that can be kept is @every 1s",
		"@every -5m":                   "the shortest that can be kept is @every 1s",
		"CRON_TZ=Europe/Berlin":        "it has 0 fields",
		"TZ=":                          `there is no time zone ""`,
		"TZ= 0 4 * * *":                `there is no time zone ""`,
		"TZ=Europe/Berln 0 4 * * *":    `there is no time zone "Europe/Berln": say one like Europe/Berlin`,
		"TZ=../../etc/hosts 0 4 * * *": "there is no time zone",
		"TZ=UTC TZ=UTC":                "it has 1 fields",
		"TZ=UTC TZ=UTC 4 * * *":        `its minute is "TZ=UTC"`,
		"0 4 * * * TZ=UTC":             "it has 6 fields",
		"every day at four":            "it has 4 fields",
	} {
		_, err := Parse(text)
		var syntax *SyntaxError
		require.ErrorAs(t, err, &syntax, "%q", text)
		require.Contains(t, err.Error(), want)
		require.Contains(t, err.Error(), fmt.Sprintf("%q is no schedule", text))
	}
	for _, text := range []string{"0 4 * * *", " 0 4 * * * ", "*/5 0-6,22 1,15 JAN-mar mon-FRI", "0 0 29 2 *", "@hourly", "@every 1m", "TZ=UTC @weekly", "0 4 ? * *"} {
		s, err := Parse(text)
		require.NoError(t, err, "%q", text)
		require.Equal(t, text, s.String())
		require.False(t, s.IsZero())
	}
	require.True(t, Schedule{}.IsZero())
	require.Zero(t, Schedule{}.Next(time.Now()))
}

// Whatever somebody writes into a configuration, there is an error or a schedule that is kept.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"0 4 * * *", "CRON_TZ=Europe/Berlin", "TZ=UTC @every 5m", "*/7 1-5,9 ? JAN *", "@daily", "TZ=a b"} {
		f.Add(seed)
	}
	from := time.Date(2026, 3, 28, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if !strings.Contains(err.Error(), "is no schedule: ") {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		next := from
		for range 3 {
			was := next
			if next = s.Next(next); !next.After(was) && !next.IsZero() {
				t.Fatalf("%q: %v comes after %v", text, next, was)
			}
			if next.IsZero() {
				return // 29 February as one day of the week, in too far a future
			}
		}
	})
}
