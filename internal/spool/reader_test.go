package spool

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/stream"
)

// A chunk that got shorter after it was looked at, or a byte of which is another, is named.
func TestTornChunkIsDamage(t *testing.T) {
	for _, wound := range []string{"record", "head"} {
		t.Run(wound, func(t *testing.T) {
			dir := t.TempDir()
			_, src, closeAll := open(t, dir, Options{})
			tl := begin(t, src, "t1")
			set := cmd("SET", "a", "1")
			for i := range 3 {
				require.NoError(t, tl.Append([]byte(set), epoch.Add(time.Duration(i)*time.Second)))
				awaitDurable(t, src, tl)
			}
			closeAll()
			views, err := View(dir, "cache")
			require.NoError(t, err)
			path := chunkPath(tl.dir, 100)
			info, err := os.Stat(path)
			require.NoError(t, err)
			size := info.Size() - 5
			if wound == "head" {
				size = 10
			}
			require.NoError(t, os.Truncate(path, size))

			r, err := views[0].Segments[0].Open(t.Context())
			given := stream.Offset(0)
			if err == nil {
				defer func() { require.NoError(t, r.Close()) }()
			}
			for err == nil {
				var p stream.Piece
				p, err = r.Next()
				given += stream.Offset(len(p.Data))
			}
			var damage *archive.DamageError
			require.True(t, errors.As(err, &damage), "%v", err)
			require.Equal(t, path, damage.Name)
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Less(t, int(given), 3*len(set))
		})
	}
}
