package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/crc64"
	"github.com/offloader/offloader/internal/store"
	"github.com/offloader/offloader/internal/store/s3test"
	"github.com/offloader/offloader/internal/stream"
)

// What a year leaves in a bucket that gets an object each second, as the daemon compacts them: what
// is older than an hour has become one segment for each hour. Beside it a snapshot each day, as by a
// schedule, and what happens in a year: verifications, outages, failovers, a full sync now and then.
const (
	yearHours     = 365 * 24
	yearSmall     = 3600 - 1 // since the last compaction, at the worst moment
	hoursToSync   = yearHours / 4
	hoursToOutage = 30 * 24
)

// year measures what planning a restore costs in an archive of a year: the program is asked for points
// all over it, and the requests that it sends are counted.
func (b *bench) year() {
	for _, kind := range []s3test.Kind{s3test.MinIO, s3test.VersityGW} {
		server := s3test.Start(b, kind)
		proxy := s3test.NewProxy(b, server)
		var requests atomic.Int64
		proxy.Harm(func(*http.Request) s3test.Fault {
			requests.Add(1)
			return s3test.Fault{}
		})
		bucket := server.Bucket(s3test.Plain)
		s, err := store.OpenS3(context.Background(), store.S3Options{
			Bucket: bucket, Endpoint: server.Endpoint(), Region: s3test.Region, PathStyle: true, AccessKeyID: s3test.AccessKey, SecretAccessKey: s3test.SecretKey,
		})
		b.check(err, "open a bucket")
		began := time.Now().Add(-(yearHours + 1) * time.Hour).Truncate(time.Second)
		y := &yearOf{b: b, to: s, began: stream.TimeOf(began)}
		b.say("  making a year's archive on %s", kind)
		y.fill()
		b.say("  %d objects", y.objects.Load())

		url := fmt.Sprintf("s3://%s?endpoint=%s&region=%s&path-style=true", bucket, proxy.Endpoint(), s3test.Region)
		day := 24 * time.Hour
		var took, asked sample
		for range b.rounds {
			for _, point := range [][]string{
				{"--latest"},
				{"--at", began.Add(yearHours*time.Hour + 30*time.Minute).Format(time.RFC3339)}, // among the small ones
				{"--at", began.Add(200*day + 12345*time.Second).Format(time.RFC3339)},
				{"--at", began.Add(3*day + 54321*time.Second).Format(time.RFC3339)},
				{"--offset", fmt.Sprint(y.middle)},
			} {
				requests.Store(0)
				seconds := b.planned(append([]string{"--archive", url, "--source", "main"}, point...))
				took, asked = append(took, seconds), append(asked, float64(requests.Load()))
			}
		}
		const way = 30 * time.Millisecond
		proxy.Harm(func(*http.Request) s3test.Fault { return s3test.Fault{Before: func() { time.Sleep(way) }} })
		var far sample
		for range b.rounds {
			far = append(far, b.planned([]string{"--archive", url, "--source", "main", "--latest"}))
		}
		what := fmt.Sprintf("planning a restore in a year of one object a second, %d of them left, on %s", y.objects.Load(), kind)
		b.bounded(what, "s", took, "–", 2, false)
		b.bounded("requests for that", "", asked, "–", 100, false)
		b.bounded(fmt.Sprintf("the same, where each answer comes %s later", way), "s", far, "–", 2, false)
		server.Kill()
	}
}

// planned has a restore planned and says how many seconds that took.
func (b *bench) planned(args []string) float64 {
	cmd := exec.Command(b.binary, append([]string{"restore", "--dry-run", "--json"}, args...)...)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+s3test.AccessKey, "AWS_SECRET_ACCESS_KEY="+s3test.SecretKey)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began).Seconds()
	b.check(err, "plan a restore: offloader %s: %s", strings.Join(cmd.Args[1:], " "), out)
	return took
}

// yearOf makes the archive.
type yearOf struct {
	b       *bench
	to      *store.S3
	began   stream.Time
	middle  stream.Offset // of the year: a boundary
	objects atomic.Int64

	encoders chan *archive.Encoder
}

// fill stores all of it, some at a time.
func (y *yearOf) fill() {
	const atOnce = 16
	y.encoders = make(chan *archive.Encoder, atOnce)
	for range atOnce {
		enc, err := archive.NewEncoder()
		y.b.check(err, "make a compressor")
		y.encoders <- enc
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	put := func(one func() error) {
		y.objects.Add(1)
		g.Go(one)
	}
	ctx := context.Background()
	var t archive.TimelineInfo
	at := stream.Offset(1000)
	hour := func(n int) stream.Time { return y.began + stream.Time(n)*3_600_000 }
	event := func(e archive.Event) {
		timeline := t.Timeline
		put(func() error { return archive.WriteEvent(ctx, y.to, "main", timeline, e) })
	}
	for n := range yearHours {
		if n%hoursToSync == 0 {
			if n > 0 {
				event(archive.Event{Kind: archive.EventEnded, Offset: at, Time: hour(n), Cause: "a full sync"})
			}
			id := stream.ReplID(fmt.Sprintf("%040x", n+1))
			t = archive.TimelineInfo{Source: "main", Timeline: archive.TimelineName(hour(n), id), ReplID: id, Offset: at, Began: hour(n), Spool: strings.Repeat("0", 32), Reason: "for the benchmark"}
			info := t
			put(func() error { return archive.WriteTimeline(ctx, y.to, info) })
		}
		if n%24 == 0 {
			event(archive.Event{Kind: archive.EventVerified, Offset: at, Time: hour(n) + 1})
			y.objects.Add(1)
			put(y.snapshot(ctx, t, at, hour(n)))
		}
		if n%hoursToOutage == hoursToOutage-1 { // a failover
			event(archive.Event{Kind: archive.EventOutage, Offset: at, From: hour(n) - 5000, Time: hour(n)})
			event(archive.Event{Kind: archive.EventReplID, Offset: at, Time: hour(n), ReplID: stream.ReplID(fmt.Sprintf("%040x", yearHours+n))})
		}
		if n == yearHours/2 {
			y.middle = at
		}
		var one func() error
		one, at = y.segment(ctx, t, at, hour(n), hour(n+1)-1)
		put(one)
	}
	for n := range yearSmall {
		var one func() error
		when := hour(yearHours) + stream.Time(n)*1000
		one, at = y.segment(ctx, t, at, when, when+999)
		put(one)
	}
	y.b.check(g.Wait(), "make an archive of a year")
}

// segment stores one that holds a command of its first and one of its last moment.
func (y *yearOf) segment(ctx context.Context, t archive.TimelineInfo, from stream.Offset, first, last stream.Time) (put func() error, end stream.Offset) {
	command := bulk(key([]byte("*3\r\n$3\r\nSET\r\n"), "key:", int(from)), first.String())
	end = from + stream.Offset(2*len(command))
	return func() error {
		enc := <-y.encoders
		defer func() { y.encoders <- enc }()
		var file bytes.Buffer
		w, err := archive.NewSegmentWriter(&file, enc, archive.SegmentHead{Source: "main", Timeline: t.Timeline, ReplID: t.ReplID, From: stream.Cursor{Offset: from}})
		if err != nil {
			return err
		}
		for _, p := range []stream.Piece{{At: from, Time: first, Data: command}, {At: from + stream.Offset(len(command)), Time: last, Data: command}} {
			if err := w.Write(p); err != nil {
				return err
			}
		}
		name, err := w.Close()
		if err != nil {
			return err
		}
		return y.to.Put(ctx, "main/"+t.Timeline+"/"+name.String(), &file)
	}, end
}

// snapshot stores one of an empty dataset.
func (y *yearOf) snapshot(ctx context.Context, t archive.TimelineInfo, at stream.Offset, when stream.Time) (put func() error) {
	rdb := []byte("REDIS0011\xff")
	rdb = binary.LittleEndian.AppendUint64(rdb, crc64.Update(0, rdb))
	info := archive.SnapshotInfo{Offset: at, Time: when, Method: "master", ReplID: t.ReplID, RDBVersion: 11, Keys: map[string]int64{}}
	return func() error {
		enc := <-y.encoders
		defer func() { y.encoders <- enc }()
		_, err := archive.WriteSnapshot(ctx, y.to, enc, "main", t.Timeline, info, bytes.NewReader(slices.Clone(rdb)))
		return err
	}
}
