package source

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Who gets the stream as it comes asks again each time; who has ceased to ask is gone.
func TestFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Source{}
		require.False(t, s.followed())
		s.News()
		require.True(t, s.followed())
		time.Sleep(time.Second) // fake time
		require.False(t, s.followed())
	})
}
