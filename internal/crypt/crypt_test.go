package crypt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// pair is a new key of either kind: its public half, and its secret one as a file has it.
func pair(t require.TestingT, hybrid bool) (Recipient, string) {
	var public, secret string
	if hybrid {
		i, err := age.GenerateHybridIdentity()
		require.NoError(t, err)
		public, secret = i.Recipient().String(), i.String()
	} else {
		i, err := age.GenerateX25519Identity()
		require.NoError(t, err)
		public, secret = i.Recipient().String(), i.String()
	}
	r, err := ParseRecipient(public)
	require.NoError(t, err)
	return r, secret
}

func identity(t require.TestingT, secrets ...string) Identity {
	i, err := ParseIdentity("key", []byte("# a comment\n\n"+strings.Join(secrets, "\r\n")+"\n"))
	require.NoError(t, err)
	return i
}

// Whatever was encrypted comes back with the key of any recipient, and of no other; the note without.
func TestWhatIsEncryptedComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hybrid := rapid.Bool().Draw(t, "hybrid")
		var to []Recipient
		var secrets []string
		for range rapid.IntRange(1, 3).Draw(t, "recipients") {
			r, secret := pair(t, hybrid)
			require.Equal(t, hybrid, r.Hybrid())
			to, secrets = append(to, r), append(secrets, secret)
		}
		_, stranger := pair(t, hybrid)
		note := Note(rapid.SliceOfN(rapid.StringMatching("[a-z0-9]{1,9}"), 0, 3).Draw(t, "note"))
		// Chunks of 64 KiB: none, one, full ones, and what lies between.
		size := rapid.SampledFrom([]int{0, 1, 1000, 64<<10 - 1, 64 << 10, 64<<10 + 1, 3 * 64 << 10}).Draw(t, "size")
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rand.Uint32())
		}
		var file []byte
		if rapid.Bool().Draw(t, "pulled") {
			r, err := EncryptReader(iotest.HalfReader(bytes.NewReader(data)), to...)
			require.NoError(t, err)
			file, err = io.ReadAll(r)
			require.NoError(t, err)
			note = nil
		} else {
			var b bytes.Buffer
			w, err := Encrypt(&b, note, to...)
			require.NoError(t, err)
			for part := range slices.Chunk(data, 10_000) {
				_, err := w.Write(part)
				require.NoError(t, err)
			}
			require.NoError(t, w.Close())
			file = b.Bytes()
		}
		got, err := ReadNote(bytes.NewReader(file))
		require.NoError(t, err)
		require.Equal(t, strings.Join(note, " "), strings.Join(got, " "))
		require.Less(t, len(file), len(data)+len(to)*2000+400+16*(len(data)>>16+1))

		one := rapid.IntRange(0, len(to)-1).Draw(t, "one")
		i := identity(t, stranger, secrets[one])
		require.True(t, i.Opens(to...))
		r, err := Decrypt(bytes.NewReader(file), "f", i)
		require.NoError(t, err)
		back, err := io.ReadAll(r)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, back))

		other := identity(t, stranger)
		require.False(t, other.Opens(to...))
		_, err = Decrypt(bytes.NewReader(file), "f", other)
		var no *IdentityError
		require.ErrorAs(t, err, &no)
		require.EqualError(t, err, "f is encrypted, and no key in key opens it")
		require.NotEmpty(t, no.Hint())
	})
}

// An age of any version gives back what has a note: it is a recipient of a kind that it passes over.
func TestANoteIsNoConcernOfAge(t *testing.T) {
	for _, hybrid := range []bool{false, true} {
		to, secret := pair(t, hybrid)
		var b bytes.Buffer
		w, err := Encrypt(&b, Note{"db", "3"}, to)
		require.NoError(t, err)
		_, err = io.WriteString(w, "data")
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.Contains(t, b.String(), "\n-> offloader db 3\n\n--- ")
		keys, err := age.ParseIdentities(strings.NewReader(secret))
		require.NoError(t, err)
		r, err := age.Decrypt(&b, keys...)
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "data", string(data))
	}
}

func TestWithoutAnIdentity(t *testing.T) {
	var no *IdentityError
	_, err := Decrypt(strings.NewReader("not even looked at"), "f")
	require.ErrorAs(t, err, &no)
	require.EqualError(t, err, "f is encrypted, and there is no identity to open it")
	require.Contains(t, no.Hint(), "--identity FILE or encryption.identity_file")
	gone := errors.New("key.txt is gone")
	_, err = Decrypt(strings.NewReader(""), "f", Identity{}, Missing(gone))
	require.EqualError(t, err, "f is encrypted, and there is no identity to open it: key.txt is gone")
	require.NotErrorIs(t, err, gone, "it is of another file")
}

func TestRecipientsThatAreNone(t *testing.T) {
	classic, secret := pair(t, false)
	hybrid, pqSecret := pair(t, true)
	for text, says := range map[string]string{
		"":                                    "a recipient is empty",
		"me":                                  "say age1…",
		"ssh-ed25519 AAAA":                    "SSH keys are no recipients",
		classic.String()[:61]:                 "it isn't whole",
		classic.String() + "a":                "it isn't whole",
		hybrid.String()[:1900]:                "it isn't whole",
		strings.ToUpper(classic.String()):     "say age1…",
		"age1yubikey1qwt50d05nh5vutpdzmlg5wn": "that of a plugin",
		secret:                                "this is a secret key",
		strings.ToLower(secret):               "this is a secret key",
		pqSecret:                              "this is a secret key",
		" " + secret:                          "say age1…",
	} {
		_, err := ParseRecipient(text)
		require.ErrorContains(t, err, says, text)
		require.NotContains(t, strings.ToUpper(err.Error()), "SECRET-KEY", text)
		require.Less(t, len(err.Error()), 200)
	}
	// What config refuses is refused here too, however it comes.
	_, err := Encrypt(io.Discard, nil, classic, hybrid)
	require.ErrorContains(t, err, "can't mix")
	_, err = Encrypt(io.Discard, Note{"x"})
	require.Error(t, err)
	_, err = EncryptReader(strings.NewReader(""))
	require.Error(t, err)
}

func TestIdentityFilesThatAreNone(t *testing.T) {
	_, secret := pair(t, false)
	for text, says := range map[string]string{
		"":                                         "no identities found",
		"# public key: age1…\n":                    "no identities found",
		secret[:70] + "\n":                         "error at line 1",
		"# x\n" + secret + "\nhunter2\n":           "error at line 3",
		"age-encryption.org/v1\n-> scrypt":         "is encrypted itself",
		"-----BEGIN AGE ENCRYPTED FILE-----":       "is encrypted itself",
		"# x\nAGE-PLUGIN-YUBIKEY-1XXX\n":           "the key of a plugin",
		"-----BEGIN OPENSSH PRIVATE KEY-----\nxyz": "error at line 1",
	} {
		_, err := ParseIdentity("key.txt", []byte(text))
		require.ErrorContains(t, err, says, text)
		require.ErrorContains(t, err, "key.txt")
		require.NotContains(t, err.Error(), "hunter2")
		require.NotContains(t, err.Error(), secret[:30])
	}
}

// A key is not printed, by whatever prints the structure that holds it.
func TestIdentitiesPrintTheirFile(t *testing.T) {
	_, secret := pair(t, false)
	i := identity(t, secret)
	for _, s := range []string{fmt.Sprint(i), fmt.Sprintf("%v %+v %#v %s", i, i, i, i), fmt.Sprintf("%+v", struct{ I Identity }{i})} {
		require.Contains(t, s, "key")
		require.NotContains(t, s, secret)
	}
	require.True(t, i.Equal(identity(t, secret)))
	require.False(t, i.Equal(Identity{}))
}

// Any file gives bytes or an error.
func FuzzDecrypt(f *testing.F) {
	to, err := ParseRecipient("age1qsnrl7zcl9hcmkpjr6mj28km6xv09meylyz9rat53w29v4flvu0qrppw4e")
	require.NoError(f, err)
	i := identity(f, "AGE-SECRET-KEY-1K69ECAE6QC3T2NHSW5KA8FD423K2PUZW0J3Y2H5Q8DS5SPZLJ9GSUU2CK9")
	for _, note := range []Note{nil, {"db", "3"}, {"later"}} {
		var b bytes.Buffer
		w, err := Encrypt(&b, note, to)
		require.NoError(f, err)
		_, err = w.Write(make([]byte, 70_000))
		require.NoError(f, err)
		require.NoError(f, w.Close())
		f.Add(b.Bytes())
		f.Add(b.Bytes()[:100])
	}
	f.Add([]byte("age-encryption.org/v1\n-> offloader\n\n-> offloader db\n\n--- \n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		_, _ = ReadNote(bytes.NewReader(file))
		r, err := Decrypt(bytes.NewReader(file), "f", i)
		if err != nil {
			return
		}
		if n, err := io.Copy(io.Discard, r); err == nil && n > int64(len(file)) {
			t.Errorf("%d bytes of %d", n, len(file))
		}
	})
}
