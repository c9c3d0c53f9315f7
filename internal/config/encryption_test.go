package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/offloader/offloader/internal/crypt"
)

// keys are two classic recipients and a hybrid one, each with a file of its secret key.
func keys(t *testing.T) (public, file []string) {
	t.Helper()
	dir := t.TempDir()
	add := func(recipient, secret string) {
		path := filepath.Join(dir, fmt.Sprintf("key%d.txt", len(file)))
		require.NoError(t, os.WriteFile(path, []byte("# public key: "+recipient+"\n"+secret+"\n"), 0o600))
		public, file = append(public, recipient), append(file, path)
	}
	for range 2 {
		i, err := age.GenerateX25519Identity()
		require.NoError(t, err)
		add(i.Recipient().String(), i.String())
	}
	i, err := age.GenerateHybridIdentity()
	require.NoError(t, err)
	add(i.Recipient().String(), i.String())
	return public, file
}

func TestEncryption(t *testing.T) {
	public, file := keys(t)
	c, warnings, err := Parse("c", []byte(good+"encryption: {recipients: ["+public[0]+", "+public[1]+"]}\n"), environment())
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Len(t, c.Encryption.Recipients, 2)
	require.True(t, c.Encryption.Identity.Empty(), "a daemon needs none to archive")
	require.ErrorContains(t, c.Encryption.CanRead("the relay"), `the relay reads what is stored encrypted: "encryption" needs an "identity_file"`)
	require.NoError(t, Encryption{}.CanRead("the relay"), "what is stored is plain")

	boot := "verify: {schedule: \"@daily\", boot: true}\n"
	_, _, err = Parse("c", []byte(good+boot+"encryption: {recipients: ["+public[0]+"]}\n"), environment())
	require.ErrorContains(t, err, `c:7:36: a boot reads what is stored encrypted: "encryption" needs an "identity_file"`)
	_, _, err = Parse("c", []byte(good+boot+"encryption: {recipients: ["+public[0]+"], identity_file: "+file[0]+"}\n"), environment())
	require.NoError(t, err)

	with, warnings, err := Parse("c", []byte(good+"encryption:\n  recipients:\n    - ${KEY}\n    - "+public[1]+"\n  identity_file: "+file[1]+"\n"), environment("KEY", public[0]))
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.NoError(t, with.Encryption.CanRead("the relay"))
	require.False(t, c.Encryption.Same(with.Encryption))
	require.True(t, with.Encryption.Same(with.Encryption))
	require.True(t, with.Encryption.Identity.Opens(with.Encryption.Recipients...))

	_, _, err = Parse("c", []byte(good+"encryption: {recipients: ["+public[2]+"], identity_file: "+file[2]+"}\n"), environment())
	require.NoError(t, err)
}

// What is wrong with keys is told when the configuration is read, and not by the first segment.
func TestEncryptionThatIsWrong(t *testing.T) {
	public, file := keys(t)
	secret, err := os.ReadFile(file[0])
	require.NoError(t, err)
	secret = []byte(strings.Split(string(secret), "\n")[1])
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(file[0]), "none.txt"), []byte("hunter2\n"), 0o600))
	none := filepath.Join(filepath.Dir(file[0]), "none.txt")
	for text, says := range map[string]string{
		"{}":                   `7:13: "encryption" has no "recipients": nothing would be encrypted`,
		"{recipients: []}":     `7:26: "recipients" is an empty list`,
		"{recipients: age1}":   `7:26: "recipients" is the single value "age1", it wants a list`,
		"{recipients: [age1]}": `7:27: "age1" is no recipient`,
		"{recipients: [" + public[0] + ", " + public[1][:60] + "]}":                `7:91: "` + public[1][:60] + `" is no recipient: it isn't whole`,
		"{recipients: [" + public[0] + ", " + public[0] + "]}":                     "7:91: this recipient is given twice",
		"{recipients: [" + public[0] + ", " + public[2] + "]}":                     "7:91: hybrid recipients (age1pq1…) and classic ones don't go together",
		"{recipients: [" + public[2] + ", " + public[0] + "]}":                     "hybrid recipients (age1pq1…) and classic ones don't go together",
		"{recipients: [" + string(secret) + "]}":                                   "7:27: this is a secret key: a recipient is its public key",
		"{recipients: [ssh-ed25519 AAAA]}":                                         "7:27: SSH keys are no recipients here",
		"{recipient: [" + public[0] + "]}":                                         `7:14: unknown field "recipient": did you mean "recipients"?`,
		"{recipients: [" + public[0] + "], identity_file: " + file[1] + "}":        "no key in " + file[1] + " opens what is encrypted to these recipients",
		"{recipients: [" + public[0] + "], identity_file: /no/such}":               "read the identity: stat /no/such: no such file or directory",
		"{recipients: [" + public[0] + "], identity_file: " + none + "}":           "none.txt is no identity file, as age-keygen writes it",
		"{identity_file: " + file[0] + "}":                                         `7:13: "encryption" has no "recipients": nothing would be encrypted`,
		"{recipients: [" + public[0] + "], identity_file: " + string(secret) + "}": "this is a secret key itself: name the file that holds it",
	} {
		_, _, err := Parse("c", []byte(good+"encryption: "+text+"\n"), environment())
		var wrong Errors
		require.ErrorAs(t, err, &wrong, text)
		require.Contains(t, err.Error(), says, text)
		require.NotContains(t, err.Error(), "hunter2")
		require.NotContains(t, err.Error(), string(secret))
	}
}

// An identity file that everyone reads is none; the warning is the same as for passwords.
func TestIdentityThatEveryoneReads(t *testing.T) {
	public, file := keys(t)
	require.NoError(t, os.Chmod(file[0], 0o644))
	text := good + "encryption: {recipients: [" + public[0] + "], identity_file: " + file[0] + "}\n"
	_, warnings, err := Parse("c", []byte(text), environment())
	require.NoError(t, err)
	require.Equal(t, []string{file[0] + " holds a secret key and can be read by everyone: chmod o-r it"}, warnings)
	_, warning, err := ReadIdentity(file[0])
	require.NoError(t, err)
	require.Equal(t, warnings[0], warning)
	_, _, err = ReadIdentity("/dev/zero")
	require.ErrorContains(t, err, "/dev/zero is not a file")
}

// Who only reads is not kept from it by an identity that the daemon's service would have had, unless
// it is needed: then the reason is told.
func TestIdentityThatIsGone(t *testing.T) {
	public, file := keys(t)
	path := filepath.Join(t.TempDir(), "c.yaml")
	for identity, says := range map[string]string{
		"${CREDENTIALS_DIRECTORY}/key": "the environment has no CREDENTIALS_DIRECTORY",
		"/no/such/key":                 "no such file",
	} {
		text := good + "encryption: {recipients: [\"${NOPE}\"], identity_file: \"" + identity + "\"}\n"
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, _, err := Load(path, environment())
		require.ErrorContains(t, err, says)
		c, _, err := LoadToRead(path, environment())
		require.NoError(t, err)
		_, err = crypt.Decrypt(strings.NewReader(""), "f", c.Encryption.Identity)
		require.ErrorContains(t, err, "f is encrypted, and there is no identity to open it")
		require.ErrorContains(t, err, says)
	}
	require.NoError(t, os.WriteFile(path, []byte(good+"encryption: {recipients: ["+public[0]+"], identity_file: "+file[0]+"}\n"), 0o600))
	c, _, err := LoadToRead(path, environment())
	require.NoError(t, err)
	require.False(t, c.Encryption.Identity.Empty())
}
