package rebirth

import (
	"errors"
	"slices"
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
		Words:  func() []Word { return nil },
		Others: func() []Server { return nil },
	}
}

func TestJudge(t *testing.T) {
	other := func(s Server) func(*Facts) {
		return func(f *Facts) { s.Address = "h:1"; f.Others = func() []Server { return []Server{s} } }
	}
	said := func(words ...Word) func(*Facts) { return func(f *Facts) { f.Words = func() []Word { return words } } }
	yes := Word{Names: "h:0", Source: true, Epoch: 3, Asked: true}
	no, heard, stale, gone, choosing := yes, yes, yes, yes, yes
	choosing.Asked, choosing.Choosing = false, true
	no.Names, no.Source = "h:2", false
	heard.Asked = false
	stale.Asked, stale.Silent = false, "s:1: no answer"
	gone.Names, gone.Source, gone.Asked, gone.Silent = "h:2", false, false, "s:1: no answer"
	at := func(epoch uint64, w Word) Word { w.Epoch = epoch; return w }
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
		{"it had gone on elsewhere", func(f *Facts) { f.Left = "offset 9 of the history abc" }, "gone on to offset 9 of the history abc before it died", true},
		{"Sentinel's choice", said(yes), "", true},
		{"it has been heard, and needs a password", said(heard), "", true},
		{"Sentinel's choice is another", said(no), "Sentinel names h:2", true},
		{"one of them has not heard of the failover", said(yes, yes, at(4, no)), "Sentinel names h:2", true},
		{"one has not heard of that back", said(at(4, yes), at(4, yes), no), "", true},
		{"who is right can't be told", said(yes, yes, no), "Sentinel names h:2", true},
		{"another was named by one that is gone", said(yes, yes, gone), "Sentinel named h:2 as the master last (s:1: no answer)", true},
		{"and that is long ago", said(at(4, yes), at(4, yes), gone), "", true},
		{"what was only heard proves nothing newer", said(at(4, heard), at(4, heard), gone), "Sentinel named h:2", true},
		{"one is choosing", said(yes, yes, choosing), "is choosing", true},
		{"none says anything", said(stale), "not known: of 1 that watch it 0 say something now (s:1: no answer)", true},
		{"too few say something", said(yes, stale), "of 2 that watch it 1 say", true},
		{"most of them do", said(yes, heard, stale), "", true},
		{"behind", func(f *Facts) { f.Engine.At, f.Engine.Acked = 600, 600 }, "at offset 600 of 700", false},
		{"not acknowledged", func(f *Facts) { f.Engine.Acked = 600 }, "at offset 600 of 700", false},
		{"acknowledged by another, or before", func(f *Facts) { f.Engine.At = 600 }, "at offset 600 of 700", false},
		{"another history", func(f *Facts) { f.Engine.ReplID = "x" }, "of 700", false},
		{"link down", func(f *Facts) { f.Engine.Up = false }, "of 700", false},
		{"loading", func(f *Facts) { f.Engine.Loading = true }, "loads", false},
		{"away", func(f *Facts) { f.Engine.Attached = false }, "not attached", false},
		{"put off by the relay", func(f *Facts) { f.Engine.Attached, f.Engine.PutOff = false, "later" }, "put it off: later", false},
		{"put off before", func(f *Facts) { f.Engine.PutOff = "later" }, "", true},
		{"copying", func(f *Facts) { f.Engine.Copying = true }, "full copy", false},
		{"ahead", func(f *Facts) { f.Engine.At = 701 }, "only what is before 700", true},
		{"another master", other(Server{Master: true}), "is a master now", true},
		{"another is ahead", other(Server{ReplID: ours, At: 701}), "1 byte more", true},
		{"another is ahead, under an id that came later", other(Server{ReplID: "x", Left: ours, At: 701}), "1 byte more", true},
		{"another archive is ahead", other(Server{Archive: true, ReplID: ours, At: 701}), "another Offloader, at h:1, has 1 byte more", true},
		{"another archive has the same", other(Server{Archive: true, ReplID: ours, At: 700}), "", true},
		{"another archive, of another history", other(Server{Archive: true, ReplID: "x", At: 701}), "", true},
		{"another went on, with nothing new", other(Server{ReplID: "x", Left: ours, At: 700}), "", true},
		{"it may not be asked", func(f *Facts) { f.Engine = Engine{Untold: "ROLE", Attached: true} }, "not be asked for ROLE", false},
		{"another doesn't tell", other(Server{Err: errors.New("timeout")}), "can't be asked", true},
		{"the source itself, at its port for TLS", other(Server{Err: errors.New("timeout"), Host: true}), "h:1, at the source's own host, is a port of the source itself or a replica", true},
		{"another refuses", other(Server{Err: errors.New("NOPERM"), Refuses: true}), "can't be asked: NOPERM", true},
		{"another doesn't tell, and was attached a moment ago", other(Server{Err: errors.New("timeout"), Follows: true}), "can't be asked: timeout", true},
		{"another refuses, and follows the relay", other(Server{Err: errors.New("NOPERM"), Refuses: true, Follows: true}), "", true},
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
	f := ready()
	f.Others = func() []Server { return []Server{{Address: "h:1", Err: errors.New("timeout"), Host: true}} }
	require.Contains(t, Judge(f).Do, "set replica-announce-port there")
	f = Facts{Order: Empty, Unread: errors.New("no answer")}
	require.True(t, Judge(f).Promote)
	f.Engine.Untold = "INFO"
	require.False(t, Judge(f).Promote, "whether it is empty isn't known")
	f.Engine.Untold, f.Engine.Keys = "", 1
	require.Contains(t, Judge(f).Why, "holds 1 key,")
	f.Engine.Keys = 2
	require.Contains(t, Judge(f).Why, "holds 2 keys,")
}

// Whatever comes together: without an order nothing is promoted that does not stand, connected, exactly where
// the archive ends, nor while something else may be the master.
func TestNothingUncertainIsPromoted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
		at := rapid.SampledFrom([]stream.Offset{-1, 0, 699, 700, 701})
		ids := rapid.SampledFrom([]stream.ReplID{"", "x", ours})
		f := Facts{Source: "s", Timeline: rapid.SampledFrom([]string{"", "t"}).Draw(t, "timeline"), ReplID: ours, End: 700,
			Suspect: rapid.SampledFrom([]string{"", "empty"}).Draw(t, "suspect"), Left: rapid.SampledFrom([]string{"", "elsewhere"}).Draw(t, "left"),
			Engine: Engine{ReplID: ids.Draw(t, "id"), Up: flag("up"), At: at.Draw(t, "at"), Loading: flag("loading"),
				Attached: flag("attached"), Copying: flag("copying"), Acked: at.Draw(t, "acked")}}
		if flag("unread") {
			f.Unread = errors.New("away")
		}
		o := Server{Address: "h:1", Master: flag("master"), ReplID: ids.Draw(t, "other's id"), At: at.Draw(t, "other's at")}
		if flag("silent") {
			o.Err, o.Host, o.Refuses = errors.New("silent"), flag("at its host"), flag("refuses")
		}
		o.Follows, o.Archive = flag("follows"), flag("archive")
		f.Others = func() []Server { return []Server{o} }
		words := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Word {
			w := Word{Names: "h:2", Source: rapid.Bool().Draw(t, "source"), Epoch: rapid.Uint64Max(3).Draw(t, "epoch")}
			switch rapid.IntRange(0, 3).Draw(t, "how") {
			case 0:
				w.Asked = true
			case 2:
				w.Choosing = true
			case 1:
				w.Silent = "no answer"
			}
			return w
		}), 0, 5).Draw(t, "words")
		f.Words = func() []Word { return words }
		said, elected := 0, true
		for _, w := range words {
			if w.Silent == "" {
				said++
			}
			elected = elected && !w.Choosing && (w.Source || slices.ContainsFunc(words, func(o Word) bool { return o.Source && o.Asked && o.Epoch > w.Epoch }))
		}
		elected = elected && (len(words) == 0 || 2*said > len(words))
		e := f.Engine
		certain := f.Unread == nil && f.Timeline != "" && f.Suspect == "" && f.Left == "" && elected && e.ReplID == ours && e.Up && e.At == 700 && e.Acked == 700 &&
			!e.Loading && e.Attached && !e.Copying && (o.Err == nil || o.Refuses && o.Follows) && !o.Master && (o.ReplID != ours || o.At <= 700)
		v := Judge(f)
		require.Equal(t, certain, v.Promote)
		require.Equal(t, certain, v.Why == "")
	})
}
