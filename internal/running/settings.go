package running

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/offloader/offloader/internal/relay"
)

// Its settings for the time, where CONFIG is allowed. The snapshot goes to memory without a detour over its disk
// where it holds nothing; and where others could reach our relay, it gives a password. A restore that is killed leaves them: the user that
// it gives, which has no other use, says what they were.
const (
	setDiskless = "repl-diskless-load"
	setUser     = "masteruser"
	setPassword = "masterauth"

	ourUser     = "offloader-restore:"
	ourPassword = ":with-password" // at its end: the password is ours as well
)

// prepare sets what is needed of it and says how that is undone.
func (t *target) prepare(ctx context.Context) (login relay.Login, undo func(context.Context) error, instead string) {
	undo = func(context.Context) error { return nil }
	was := map[string]string{}
	for _, name := range []string{setDiskless, setUser, setPassword, "tls-replication"} {
		got, err := t.client.ConfigGet(ctx, name).Result()
		if err != nil {
			if t.loopback() {
				return login, undo, ""
			}
			return login, undo, fmt.Sprintf("its replication link would be open to everybody without a password, and CONFIG, which sets one, is refused (%v)", err)
		}
		was[name] = got[name]
	}
	if was["tls-replication"] == "yes" {
		return login, undo, "its replication links speak TLS, and it would have to trust a certificate of ours"
	}
	if rest, ours := strings.CutPrefix(was[setUser], ourUser); ours { // of one that was killed
		was[setUser] = ""
		var password bool
		if was[setDiskless], password = strings.CutSuffix(rest, ourPassword); password {
			was[setPassword] = ""
		}
	}
	type setting struct{ name, value string }
	var set []setting
	login = relay.Login{Username: was[setUser], Password: was[setPassword]}
	needed := !t.loopback() && login.Password == ""
	mark := ourUser + was[setDiskless]
	if needed {
		mark, login.Password = mark+ourPassword, rand.Text()
	}
	if login.Username == "" {
		login.Username = mark
		set = append(set, setting{setUser, mark})
	}
	if needed {
		set = append(set, setting{setPassword, login.Password})
	}
	set = append(set, setting{setDiskless, "on-empty-db"})
	var done []setting
	undo = func(ctx context.Context) error {
		for i := len(done) - 1; i >= 0; i-- { // the mark last
			if err := t.client.ConfigSet(ctx, done[i].name, was[done[i].name]).Err(); err != nil {
				why := fmt.Sprintf("its setting %s, which was changed for the restore, could not be put back", done[i].name)
				return &Error{t.server.Name, why, err, "set it yourself: CONFIG SET " + done[i].name}
			}
		}
		return nil
	}
	for _, s := range set {
		err := t.client.ConfigSet(ctx, s.name, s.value).Err()
		switch {
		case err == nil:
			done = append(done, s)
		case s.name == setDiskless: // it is only faster
		case s.name == setUser && was[setPassword] == "" && !needed: // it isn't needed
			login.Username = ""
		case s.name == setUser:
			login.Username = ""
		default:
			return login, undo, fmt.Sprintf("its replication link would be open to everybody without a password, and it can't be given one (%v)", err)
		}
	}
	return login, undo, ""
}
