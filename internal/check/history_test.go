package check

import (
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/stream"
)

// What an attach will cost depends on whether the master goes on with what is archived. Ids don't tell a
// restarted master from another one; since when it runs does.
func TestHistory(t *testing.T) {
	const ours, newer, other = "0123456701234567012345670123456701234567", "89abcdef89abcdef89abcdef89abcdef89abcdef", "ffffffffffffffffffffffffffffffffffffffff"
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	archived := Archived{Timeline: "20261124T120000.000Z-01234567", ReplID: stream.ReplID(ours), Offset: 1000, Last: now.Add(-30 * time.Minute)}
	master := map[string]string{
		"master_replid": ours, "master_replid2": "0000000000000000000000000000000000000000", "second_repl_offset": "-1", "uptime_in_seconds": "864000",
		"repl_backlog_active": "1", "repl_backlog_first_byte_offset": "501", "repl_backlog_histlen": "1000",
	}
	for name, row := range map[string]struct {
		info  map[string]string
		level Level
		says  string
	}{
		"goes on":                   {nil, OK, "the link goes on there, with no full sync"},
		"the backlog's first byte":  {map[string]string{"repl_backlog_first_byte_offset": "1001"}, OK, "goes on"},
		"one byte is lost":          {map[string]string{"repl_backlog_first_byte_offset": "1002"}, Warn, "but not in its backlog what follows offset 1000"},
		"nothing was written since": {map[string]string{"repl_backlog_histlen": "500"}, OK, "goes on"},
		"it is behind the archive":  {map[string]string{"repl_backlog_histlen": "499"}, Warn, "not in its backlog"},
		"no backlog":                {map[string]string{"repl_backlog_active": "0"}, Warn, "a full sync and a new timeline"},
		"a failover":                {map[string]string{"master_replid": newer, "master_replid2": ours, "second_repl_offset": "1001"}, OK, "goes on"},
		"one that lost our tail":    {map[string]string{"master_replid": newer, "master_replid2": ours, "second_repl_offset": "1000"}, Warn, "took over at 999"},
		"another master":            {map[string]string{"master_replid": other}, Warn, "it was running already when the archive's newest byte was received, 30 min ago, so it is another master, or had more than one failover since"},
		"restarted, or another one": {map[string]string{"master_replid": other, "uptime_in_seconds": "900"}, Warn, "it was started 15 min ago, after the archive's newest byte"},
		"clocks that don't agree":   {map[string]string{"master_replid": other, "uptime_in_seconds": "1830"}, Warn, "it was started 30 min ago"},
		"alone for long":            {map[string]string{"master_replid": other, "ttl": "60"}, Warn, "nothing was received for 30 min, and a master without replicas takes a new id after repl-backlog-ttl, 60 s"},
		"a replica":                 {map[string]string{"master_replid": other, "role": "slave"}, Warn, "its ids are those that its own master has now"},
		"a backlog that is kept":    {map[string]string{"master_replid": other, "ttl": "0"}, Warn, "so it is another master"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &Facts{Info: maps.Clone(master)}
			maps.Copy(f.Info, row.info)
			if ttl, given := row.info["ttl"]; given {
				f.Config = map[string]string{"repl-backlog-ttl": ttl}
			}
			list := AdviseHistory(f, archived, now)
			require.Len(t, list, 1)
			require.Equal(t, "archive", list[0].Name)
			require.Equal(t, row.level, list[0].Level)
			require.Contains(t, list[0].Message, row.says)
			require.NotContains(t, list[0].Message, "%!")
		})
	}
	require.Empty(t, AdviseHistory(&Facts{}, archived, now), "what may not be seen is told elsewhere")
}
