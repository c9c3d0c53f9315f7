package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/rebirth"
	"github.com/offloader/offloader/internal/source"
	"github.com/offloader/offloader/internal/syncer"
)

// heardFor is how long what a Sentinel has said by itself counts as said now. It does so every two seconds, and
// some of that may get lost.
const heardFor = 10 * time.Second

// words asks the Sentinels that are known whom they take for the master, all at once. One that doesn't watch it any more
// has none.
func (k *keeper) words(ctx context.Context) (all []rebirth.Word) {
	known := k.current().Sentinels()
	words := make([]*rebirth.Word, len(known))
	var asked sync.WaitGroup
	for i, s := range known {
		asked.Go(func() {
			if words[i] = k.askSentinel(ctx, s); words[i] != nil {
				words[i].Source = k.atSource(ctx, words[i].Names)
			}
		})
	}
	asked.Wait()
	for _, w := range words {
		if w != nil {
			all = append(all, *w)
		}
	}
	return all
}

// askSentinel gives the word of one: what it answers, or else what was last heard of it; nil where it watches no such
// master. It is sent no password: that it is a Sentinel, it has only said itself.
func (k *keeper) askSentinel(ctx context.Context, s source.Sentinel) *rebirth.Word {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	o := syncer.Options{Address: s.Sentinel, TLS: k.want.tls, DialTimeout: askFor} // who speaks TLS to the master announces a port that does
	e, err := syncer.AskSentinel(ctx, o, s.Master)
	w := &rebirth.Word{Names: s.Names, Epoch: s.Epoch}
	switch {
	case err == nil && e.Address == "":
		return nil
	case err == nil && e.Choosing:
		w.Choosing = true
	case err == nil:
		w.Names, w.Epoch, w.Asked = e.Address, e.Epoch, true
	case time.Since(s.Heard) < heardFor:
	case ctx.Err() != nil:
		w.Silent = fmt.Sprintf("%s: no answer within %v", s.Sentinel, askFor)
	default:
		w.Silent = err.Error()
	}
	return w
}
