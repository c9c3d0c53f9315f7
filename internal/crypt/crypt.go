// Package crypt decides who may read what an archive holds. It is age (age-encryption.org/v1), as the
// program of that name writes and reads it.
//
// What is stored is encrypted to recipients, which are public keys: any of them opens it. Who
// writes needs no secret, so a daemon that is broken into gives away nothing of what it stored.
// Who reads needs an Identity, a file of secret keys. Keys of two kinds are known: classic ones
// (X25519, age1…) and hybrid ones (age1pq1…), which are safe from quantum computers too, and for that
// reason can't stand beside classic ones. Plugins are not: they would be programs of somebody's PATH.
//
// Files pass in chunks of 64 KiB. Each is authenticated by itself, so what was read before a wrong
// one was right, but only io.EOF says that it was all.
package crypt

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
)

// Recipient is a public key that files are encrypted to.
type Recipient struct {
	text string
	key  age.Recipient
}

const (
	classicPrefix = "age1"
	hybridPrefix  = "age1pq1"
	secretPrefix  = "AGE-SECRET-KEY-" //nolint:gosec // how every secret begins, and none
	pluginPrefix  = "AGE-PLUGIN-"
)

// ParseRecipient reads age1… or age1pq1…, as age-keygen prints them. Its errors repeat nothing that
// may be a secret.
func ParseRecipient(s string) (Recipient, error) {
	var key age.Recipient
	var err error
	switch {
	case s == "":
		return Recipient{}, errors.New("a recipient is empty")
	case IsSecret(s):
		return Recipient{}, errors.New("this is a secret key: a recipient is its public key, which age-keygen -y prints")
	case strings.HasPrefix(s, "ssh-"):
		return Recipient{}, errors.New("SSH keys are no recipients here: make a key of age's own, with age-keygen")
	case strings.HasPrefix(s, hybridPrefix):
		key, err = age.ParseHybridRecipient(s)
	case strings.HasPrefix(s, classicPrefix):
		key, err = age.ParseX25519Recipient(s)
	default:
		return Recipient{}, errors.New("this is no recipient: say age1…, as age-keygen prints it")
	}
	if err != nil {
		return Recipient{}, fmt.Errorf("%q is no recipient: it isn't whole, or that of a plugin", shortened(s))
	}
	return Recipient{s, key}, nil
}

// IsSecret tells a secret key that was given where something else was meant.
func IsSecret(s string) bool {
	return len(s) >= len(secretPrefix) && strings.EqualFold(s[:len(secretPrefix)], secretPrefix)
}

// shortened is enough of a key to find it by: a hybrid one has 1,959 characters.
func shortened(s string) string {
	const most = 70
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// String is the key as it was given.
func (r Recipient) String() string { return r.text }

// Equal tells whether it is the key of another one.
func (r Recipient) Equal(o Recipient) bool { return r.text == o.text }

// Hybrid tells the kind of key. One list holds keys of one kind: a classic key beside a hybrid one
// would undo what the hybrid one is for.
func (r Recipient) Hybrid() bool { return strings.HasPrefix(r.text, hybridPrefix) }

// Encrypt begins an encrypted file in w. What is written to the result is encrypted on its way; the
// last chunk is written by Close, which leaves w open. The note can be read without an identity.
func Encrypt(w io.Writer, note Note, to ...Recipient) (io.WriteCloser, error) {
	out := bufio.NewWriter(w) // the head is written word by word
	c, err := age.Encrypt(out, keys(note, to)...)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return &encrypter{c, out}, nil
}

type encrypter struct {
	io.WriteCloser
	out *bufio.Writer
}

func (e *encrypter) Close() error {
	if err := e.WriteCloser.Close(); err != nil {
		return err
	}
	return e.out.Flush()
}

// EncryptReader is Encrypt for who reads the encrypted file, and needs no goroutine for it.
func EncryptReader(r io.Reader, to ...Recipient) (io.Reader, error) {
	enc, err := age.EncryptReader(r, keys(nil, to)...)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return enc, nil
}

func keys(note Note, to []Recipient) []age.Recipient {
	var list []age.Recipient
	for _, r := range to {
		list = append(list, r.key)
	}
	if len(note) > 0 && len(to) > 0 {
		list = append(list, notice{note, to[0].Hybrid()})
	}
	return list
}

// Note is words that stand in the head of an encrypted file as they are. For age the note is a
// recipient of a kind that it doesn't know, which all its versions pass over. It is authenticated
// for who holds an identity, and for others as good as the file's checksum.
type Note []string

// noteType is the kind of recipient that age takes a note for.
const noteType = "offloader"

type notice struct {
	words  Note
	hybrid bool
}

// Wrap is what a recipient does.
func (n notice) Wrap([]byte) ([]*age.Stanza, error) {
	return []*age.Stanza{{Type: noteType, Args: n.words}}, nil
}

// WrapWithLabels says beside that what age wants hybrid recipients to have in common.
func (n notice) WrapWithLabels(key []byte) ([]*age.Stanza, []string, error) {
	s, err := n.Wrap(key)
	if n.hybrid {
		return s, []string{"postquantum"}, err
	}
	return s, nil, err
}

// ReadNote gives the note of the encrypted file that r begins with, nil where it has none.
func ReadNote(r io.Reader) (Note, error) {
	head, err := age.ExtractHeader(r)
	if err != nil {
		return nil, err
	}
	// Lines that begin with an arrow name recipients; all else is base64, which has no arrows.
	for line := range bytes.Lines(head) {
		if words := strings.Fields(string(line)); len(words) > 1 && words[0] == "->" && words[1] == noteType {
			return words[2:], nil
		}
	}
	return nil, nil
}
