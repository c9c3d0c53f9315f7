package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/engine/enginetest"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/internal/stream"
)

// uploadInterval is what is configured: the default for S3.
const uploadInterval = time.Second

// age measures how old the oldest byte is that S3 lacks while a master is written to evenly. It is
// looked at from outside: the master says how much it has written by when, and a proxy before the
// server which segment was there when.
func (b *bench) age() {
	docs := newDocuments()
	for _, load := range []struct {
		megabytes int // a second
		seconds   int // more than it takes for a compacted segment
	}{{1, 100}, {10, 40}} {
		server := s3test.Start(b, s3test.MinIO)
		proxy := s3test.NewProxy(b, server)
		seen := &arrivals{}
		proxy.Watch(seen.answered)
		master := b.startMaster()
		d := b.archiveTo(fmt.Sprintf("{type: s3, bucket: %s, endpoint: %q, region: %s, path_style: true, access_key_id: %s, secret_access_key: %s, upload_interval: %s}",
			server.Bucket(s3test.Plain), proxy.Endpoint(), s3test.Region, s3test.AccessKey, s3test.SecretKey, uploadInterval), target{name: "main", port: master.Port()})
		d.inStep(master)
		d.until("a store that lacks nothing", func() bool {
			s := d.source("main")
			return len(s.Stores) == 1 && s.Stores[0].Error == "" && s.Stores[0].LagBytes == 0
		})

		stop, written := make(chan struct{}), make(chan []writtenBy)
		go func() {
			defer close(written) // also where a master that is gone ends it
			written <- watchOffset(master, stop)
		}()
		rate := load.megabytes * 1_000_000 / (documentSize + 44) // with what SET and the key take in the stream
		err := send(master.Addr(), rate*load.seconds, sets(100_000, docs.next)(rand.New(rand.NewPCG(1, 2))), rate)
		b.check(err, "write to the master")
		close(stop)
		ages, objects := seen.ages(<-written), seen.count()
		if len(ages) == 0 {
			b.Fatalf("the store got nothing, or the master is gone\n%s", d.log())
		}
		bound := (uploadInterval + 500*time.Millisecond).Seconds()
		p99 := ages.quantile(0.99)
		b.add(row{
			what:  fmt.Sprintf("age of the oldest byte that S3 lacks, p99, stream of %d MB/s, upload_interval %s", load.megabytes, uploadInterval),
			ours:  digits(p99) + " s",
			other: fmt.Sprintf("median %s s, at most %s s; %.2f segments a second", digits(ages.median()), digits(ages.quantile(1)), float64(objects)/float64(load.seconds)),
			bound: limit(bound, false) + " s", holds: verdict(p99, bound, false),
		})
		d.stop()
		d.remove()
		master.Kill()
		server.Kill()
	}
}

// writtenBy is how far a master had written at a time.
type writtenBy struct {
	at     time.Time
	offset stream.Offset
}

// watchOffset asks a master how far it has written, a hundred times a second, until stop.
func watchOffset(master *enginetest.Server, stop chan struct{}) (all []writtenBy) {
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	for {
		at := time.Now() // before it answers: what it tells was written later than that, or before the last time
		all = append(all, writtenBy{at, stream.Offset(master.Offset())})
		select {
		case <-stop:
			return all
		case <-every.C:
		}
	}
}

// arrivals are the segments that a server has got.
type arrivals struct {
	mu       sync.Mutex
	segments []arrival
}

type arrival struct {
	at time.Time
	stream.Range
}

// answered takes note of a segment that was stored.
func (a *arrivals) answered(r *http.Request, status int) {
	i := strings.Index(r.URL.Path, "/log/")
	if r.Method != http.MethodPut || status != http.StatusOK || i < 0 {
		return
	}
	if n, err := archive.ParseSegmentName(r.URL.Path[i+1:]); err == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.segments = append(a.segments, arrival{time.Now(), n.Range})
	}
}

func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.segments)
}

// ages are, for each time at which the master was asked, how long before it the first byte was written
// that was not stored yet, in seconds: 0 where all was.
func (a *arrivals) ages(written []writtenBy) (ages sample) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.segments) == 0 || len(written) == 0 {
		return nil
	}
	stored, next, oldest := written[0].offset, 0, 0 // nothing was lacking when it began
	for i, now := range written {
		for ; next < len(a.segments) && !a.segments[next].at.After(now.at); next++ {
			if s := a.segments[next]; s.From <= stored {
				stored = max(stored, s.To)
			}
		}
		for oldest < i && written[oldest].offset <= stored {
			oldest++ // the first time at which there was more than is stored now
		}
		age := 0.0
		if now.offset > stored {
			age = now.at.Sub(written[max(0, oldest-1)].at).Seconds()
		}
		ages = append(ages, age)
	}
	return ages
}
