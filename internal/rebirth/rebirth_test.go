package rebirth

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/offloader/offloader/internal/stream"
)

const ours = stream.ReplID("8b1b0dd1b8bb3b6e3a3ba2bf9d2e2f4d0a1b2c3d")

// ready is an engine that may be promoted.
func ready() Facts {
	return Facts{
		Source: "cache", Timeline: "t", ReplID: ours, End: 700,
		Engine: Engine{ReplID: ours, Up: true, At: 700, Attached: true, Acked: 700, Keys: 5},
		Others: func() []Server { return nil },
	}
}

func TestJudge(t *testing.T) {
	other := func(s Server) func(*Facts) {
		return func(f *Facts) { s.Address = "h:1"; f.Others = func() []Server { return []Server{s} } }
	}
	for _, c := range []struct {
		name   string
		change func(*Facts)
		why    string // "": it is promoted
		latest bool   // it is, with the order
	}{
		{"all is there", func(*Facts) {}, "", true},
		{"nothing is archived", func(f *Facts) { f.Timeline = "" }, "nothing is archived", false},
		{"a store is away", func(f *Facts) { f.Unread = errors.New("no answer") }, "no answer", false},
		{"suspect", func(f *Facts) { f.Suspect = "empty" }, "suspect: empty", true},
		{"Sentinel's choice is another", func(f *Facts) { f.Sentinel = "h:2" }, "Sentinel names h:2", true},
		{"behind", func(f *Facts) { f.Engine.At, f.Engine.Acked = 600, 600 }, "at offset 600 of 700", false},
		{"not acknowledged", func(f *Facts) { f.Engine.Acked = 600 }, "at offset 600 of 700", false},
		{"acknowledged by another, or before", func(f *Facts) { f.Engine.At = 600 }, "at offset 600 of 700", false},
		{"another history", func(f *Facts) { f.Engine.ReplID = "x" }, "of 700", false},
		{"link down", func(f *Facts) { f.Engine.Up = false }, "of 700", false},
		{"loading", func(f *Facts) { f.Engine.Loading = true }, "loads", false},
		{"away", func(f *Facts) { f.Engine.Attached = false }, "not attached", false},
		{"copying", func(f *Facts) { f.Engine.Copying = true }, "full copy", false},
		{"ahead", func(f *Facts) { f.Engine.At = 701 }, "only what is before 700", true},
		{"another master", other(Server{Master: true}), "is a master now", true},
		{"another is ahead", other(Server{ReplID: ours, At: 701}), "1 bytes more", true},
		{"another is ahead, under an id that came later", other(Server{ReplID: "x", Left: ours, At: 701}), "1 bytes more", true},
		{"another went on, with nothing new", other(Server{ReplID: "x", Left: ours, At: 700}), "", true},
		{"it may not be asked", func(f *Facts) { f.Engine = Engine{Untold: "ROLE", Attached: true} }, "not be asked for ROLE", false},
		{"another doesn't tell", other(Server{Err: errors.New("timeout")}), "can't be asked", true},
		{"another replica", other(Server{ReplID: ours, At: 700}), "", true},
		{"one of another history", other(Server{ReplID: "x", At: 900}), "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := ready()
			c.change(&f)
			v := Judge(f)
			require.Equal(t, c.why == "", v.Promote)
			if c.why != "" {
				require.Contains(t, v.Why, c.why)
			}
			f.Order = Latest
			require.Equal(t, c.latest, Judge(f).Promote)
		})
	}
	f := Facts{Order: Empty, Unread: errors.New("no answer")}
	require.True(t, Judge(f).Promote)
	f.Engine.Untold = "INFO"
	require.False(t, Judge(f).Promote, "whether it is empty isn't known")
	f.Engine.Untold, f.Engine.Keys = "", 1
	require.Contains(t, Judge(f).Why, "holds 1 keys")
}

// Whatever comes together: without an order nothing is promoted that does not stand, connected, exactly where
// the archive ends, nor while something else may be the master.
func TestNothingUncertainIsPromoted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
		at := rapid.SampledFrom([]stream.Offset{-1, 0, 699, 700, 701})
		ids := rapid.SampledFrom([]stream.ReplID{"", "x", ours})
		f := Facts{Source: "s", Timeline: rapid.SampledFrom([]string{"", "t"}).Draw(t, "timeline"), ReplID: ours, End: 700,
			Suspect: rapid.SampledFrom([]string{"", "empty"}).Draw(t, "suspect"), Sentinel: rapid.SampledFrom([]string{"", "h:2"}).Draw(t, "sentinel"),
			Engine: Engine{ReplID: ids.Draw(t, "id"), Up: flag("up"), At: at.Draw(t, "at"), Loading: flag("loading"),
				Attached: flag("attached"), Copying: flag("copying"), Acked: at.Draw(t, "acked")}}
		if flag("unread") {
			f.Unread = errors.New("away")
		}
		o := Server{Address: "h:1", Master: flag("master"), ReplID: ids.Draw(t, "other's id"), At: at.Draw(t, "other's at")}
		if flag("silent") {
			o.Err = errors.New("silent")
		}
		f.Others = func() []Server { return []Server{o} }
		e := f.Engine
		certain := f.Unread == nil && f.Timeline != "" && f.Suspect == "" && f.Sentinel == "" && e.ReplID == ours && e.Up && e.At == 700 && e.Acked == 700 &&
			!e.Loading && e.Attached && !e.Copying && o.Err == nil && !o.Master && (o.ReplID != ours || o.At <= 700)
		v := Judge(f)
		require.Equal(t, certain, v.Promote)
		require.Equal(t, certain, v.Why == "")
	})
}
