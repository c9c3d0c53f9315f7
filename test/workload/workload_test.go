package workload_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/test/workload"
)

// It writes all that it says, no command is unknown to an engine, and its keys are of every type.
func TestWorkloadIsWide(t *testing.T) {
	enginetest.Each(t, func(t *testing.T, kind enginetest.Kind) {
		t.Parallel()

		s := enginetest.Start(t, kind)
		w := workload.New(1, s)
		defer func() { require.NoError(t, w.Close()) }()
		require.NoError(t, w.Run(t.Context(), 4000))
		require.Empty(t, w.Missing(), "these never succeeded")
		types := map[any]bool{}
		for db := range 16 {
			c := s.DB(db)
			for i, keys := 0, c.Keys(t.Context(), "*").Val(); i < len(keys); i++ {
				types[c.Type(t.Context(), keys[i]).Val()] = true
			}
		}
		for _, name := range []string{"string", "list", "set", "zset", "hash", "stream"} {
			require.True(t, types[name], "no %s is left", name)
		}
		stats := s.Info("stats")
		require.NotEqual(t, "0", stats["expired_keys"], "nothing expired under way")
	})
}
