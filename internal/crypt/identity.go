package crypt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
)

// Identity is what an identity file holds: one or more secret keys. The zero Identity holds none.
type Identity struct {
	file    string
	keys    []age.Identity
	public  []string // of each key the recipient that it opens for
	missing error    // why it holds none
}

// ParseIdentity reads an identity file's text, as age-keygen writes it: a key a line, comments and
// empty lines. Its errors repeat nothing of the text.
func ParseIdentity(file string, text []byte) (Identity, error) {
	if bytes.HasPrefix(text, []byte("age-encryption.org/")) || bytes.HasPrefix(text, []byte("-----BEGIN AGE ENCRYPTED FILE-----")) {
		return Identity{}, fmt.Errorf("%s is encrypted itself: age -d decrypts it", file)
	}
	if bytes.Contains(text, []byte("\n"+pluginPrefix)) || bytes.HasPrefix(text, []byte(pluginPrefix)) {
		return Identity{}, fmt.Errorf("%s has the key of a plugin: only keys of age's own are read", file)
	}
	keys, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return Identity{}, fmt.Errorf("%s is no identity file, as age-keygen writes it: %w", file, err)
	}
	i := Identity{file: file, keys: keys}
	for _, key := range keys {
		switch key := key.(type) {
		case *age.X25519Identity:
			i.public = append(i.public, key.Recipient().String())
		case *age.HybridIdentity:
			i.public = append(i.public, key.Recipient().String())
		}
	}
	return i, nil
}

// Missing stands for an identity that could not be read. Who needs it is told why.
func Missing(why error) Identity { return Identity{missing: why} }

// Empty tells whether it holds no key.
func (i Identity) Empty() bool { return len(i.keys) == 0 }

// String says where it is from: never a key.
func (i Identity) String() string { return i.file }

// GoString keeps keys out of %#v too.
func (i Identity) GoString() string { return i.file }

// Opens tells whether it opens what is encrypted to one of these.
func (i Identity) Opens(to ...Recipient) bool {
	return slices.ContainsFunc(to, func(r Recipient) bool { return slices.Contains(i.public, r.text) })
}

// Equal tells whether it holds the keys of another one.
func (i Identity) Equal(o Identity) bool { return slices.Equal(i.public, o.public) }

// An IdentityError says that a file is encrypted, and that the identity for it isn't here. The
// file may be as good as new.
type IdentityError struct {
	File    string
	Tried   []string // identity files that don't open it, none where there was none
	Missing error    // why there was none, where that is known; not wrapped, since it is of another file
}

func (e *IdentityError) Error() string {
	switch {
	case len(e.Tried) > 0:
		return fmt.Sprintf("%s is encrypted, and no key in %s opens it", e.File, strings.Join(e.Tried, ", "))
	case e.Missing != nil:
		return fmt.Sprintf("%s is encrypted, and there is no identity to open it: %v", e.File, e.Missing)
	}
	return e.File + " is encrypted, and there is no identity to open it"
}

// Hint says what to do.
func (e *IdentityError) Hint() string {
	if len(e.Tried) > 0 {
		return "the file was encrypted to other recipients: give --identity FILE, or encryption.identity_file, a file that holds a key of theirs; it may hold several"
	}
	return "name a file with a secret key of one of its recipients: --identity FILE or encryption.identity_file"
}

// Decrypt gives what is in the encrypted file that src begins with; file is what errors call it.
// Where no identity fits the error is an IdentityError: but a wrong bit in the file's head may look
// like that too.
func Decrypt(src io.Reader, file string, identities ...Identity) (io.Reader, error) {
	no := &IdentityError{File: file}
	var keys []age.Identity
	for _, i := range identities {
		keys = append(keys, i.keys...)
		if !i.Empty() {
			no.Tried = append(no.Tried, i.file)
		} else if no.Missing == nil {
			no.Missing = i.missing
		}
	}
	if len(keys) == 0 {
		return nil, no
	}
	r, err := age.Decrypt(src, keys...)
	var match *age.NoIdentityMatchError
	if errors.As(err, &match) {
		return nil, no
	}
	return r, err
}
