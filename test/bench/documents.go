package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// documents are values with which compression has the work that real ones give it: texts that
// are alike, with names, numbers, times and tokens that aren't. They are made before anything is
// measured.
type documents struct {
	json  [][]byte // about 1 KB each
	noise []byte   // of letters and digits
}

const (
	documentCount = 20_000 // 20 MB: a compressor's window sees none of them twice
	documentSize  = 1024
	noiseSize     = 4 << 20
)

func newDocuments() *documents {
	r := rand.New(rand.NewPCG(7, 42))
	d := &documents{noise: make([]byte, noiseSize)}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	for i := range d.noise {
		d.noise[i] = letters[r.IntN(len(letters))]
	}
	for range documentCount {
		d.json = append(d.json, d.document(r))
	}
	return d
}

// next is one of the documents.
func (d *documents) next(r *rand.Rand) []byte { return d.json[r.IntN(len(d.json))] }

// value100 is 100 bytes of which half is a token, as in a session or a cached record.
func (d *documents) value100(r *rand.Rand) []byte {
	doc := d.next(r)
	at := r.IntN(len(doc) - 50)
	return append(append(make([]byte, 0, 100), doc[at:at+50]...), d.token(r, 50)...)
}

// small is some 8 to 40 bytes.
func (d *documents) small(r *rand.Rand) []byte { return d.token(r, 8+r.IntN(32)) }

func (d *documents) token(r *rand.Rand, n int) []byte {
	at := r.IntN(len(d.noise) - n)
	return d.noise[at : at+n]
}

// document is an order as a shop's service would cache it.
func (d *documents) document(r *rand.Rand) []byte {
	one := func(of string) string { words := strings.Fields(of); return words[r.IntN(len(words))] }
	name := func() string {
		return one("Anna Ben Carla David Elif Femi Grete Hugo Ines Jonas Kai Lena Marta Nils Olga Pavel Ruth Sven Tara Uwe")
	}
	family := func() string {
		return one("Ahrens Bauer Costa Dogan Eriksen Fischer Garcia Huber Ivanova Jansen Keller Lopez Moreau Novak Okafor Petrov")
	}
	var s strings.Builder
	n, f := name(), family()
	fmt.Fprintf(&s, `{"id":"%s","created":"2026-%02d-%02dT%02d:%02d:%02d.%03dZ","status":"%s","total":%d.%02d,"currency":"%s",`,
		d.token(r, 22), 1+r.IntN(12), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1000),
		one("new paid packed shipped delivered returned"), r.IntN(900), r.IntN(100), one("EUR USD GBP SEK"))
	fmt.Fprintf(&s, `"customer":{"id":%d,"name":"%s %s","email":"%s.%s%d@example.%s","phone":"+49 %d %d","vip":%t},`,
		r.IntN(5_000_000), n, f, strings.ToLower(n), strings.ToLower(f), r.IntN(1000), one("com org net"), 100+r.IntN(900), 100000+r.IntN(9_000_000), r.IntN(10) == 0)
	fmt.Fprintf(&s, `"address":{"street":"%s %d","zip":"%05d","city":"%s","geo":[%.6f,%.6f]},"items":[`,
		one("Hauptstrasse Lindenweg Bahnhofstrasse Gartenweg Schulstrasse Bergstrasse Am-Markt Ringstrasse"), 1+r.IntN(200), r.IntN(100000),
		one("Berlin Hamburg Lyon Porto Malmo Graz Utrecht Gdansk Turin Leeds"), 40+15*r.Float64(), 20*r.Float64())
	for i := 0; s.Len() < documentSize-180; i++ {
		if i > 0 {
			s.WriteByte(',')
		}
		fmt.Fprintf(&s, `{"sku":"%s-%06d","title":"%s %s","qty":%d,"price":%d.%02d,"tax":%d}`, d.token(r, 4), r.IntN(1e6),
			one("Blue Red Green Black White Large Small Organic Used"), one("shirt lamp chair book cable mug jacket bottle keyboard backpack"),
			1+r.IntN(5), r.IntN(200), r.IntN(100), one("7 19 21")[0]-'0')
	}
	fmt.Fprintf(&s, `],"trace":"%016x","note":"`, r.Uint64())
	for s.Len() < documentSize-2 {
		s.WriteString(one("please leave it with the neighbour or behind green door before noon thanks and call when nobody answers bell") + " ")
	}
	return append([]byte(s.String()[:documentSize-2]), `"}`...)
}
