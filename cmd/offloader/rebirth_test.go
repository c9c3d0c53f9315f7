package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/spool"
)

// TestTheSourcesNameMayLeadToAMaster: the source's name has several addresses, and a server at another one than that
// which has come back is a master.
func TestTheSourcesNameMayLeadToAMaster(t *testing.T) {
	s := enginetest.Start(t, enginetest.Any(t))
	sp, err := spool.Open(t.TempDir(), spool.Options{MaxSize: 64 << 20})
	require.NoError(t, err)
	defer func() { require.NoError(t, sp.Close()) }()
	k := &keeper{want: want{Source: config.Source{Name: "cache", Address: fmt.Sprintf("localhost:%d", s.Port())}}}
	k.source = source.New(source.Options{Name: "cache", Spool: sp})

	others := k.others(t.Context(), fmt.Sprintf("10.9.8.7:%d", s.Port()))
	require.Len(t, others, 1)
	require.Equal(t, s.Addr(), others[0].Address)
	require.True(t, others[0].Master)
	require.Empty(t, k.others(t.Context(), s.Addr()), "that is itself")
	s.Kill()
	require.Empty(t, k.others(t.Context(), fmt.Sprintf("10.9.8.7:%d", s.Port())), "and where nobody answers, nobody is known to be one")
}
