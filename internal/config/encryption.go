package config

import (
	"errors"
	"fmt"
	"slices"

	"github.com/offloader/offloader/internal/crypt"
)

// Encryption is whom the stores are encrypted to, and what opens them.
type Encryption struct {
	Recipients []crypt.Recipient // all of one kind; none: what is stored stays plain
	Identity   crypt.Identity    // empty where no identity_file is given; it opens what the Recipients get
}

// Same tells whether a daemon can go on as it is.
func (e Encryption) Same(o Encryption) bool {
	return slices.EqualFunc(e.Recipients, o.Recipients, crypt.Recipient.Equal) && e.Identity.Equal(o.Identity)
}

// CanRead is an error where what a daemon has stored can't be opened by it again. It is for all that
// builds on the archive and does more than fill it; what says who that is.
func (e Encryption) CanRead(what string) error {
	if len(e.Recipients) > 0 && e.Identity.Empty() {
		return fmt.Errorf(`%s reads what is stored encrypted: "encryption" needs an "identity_file"`, what)
	}
	return nil
}

func (r *reader) encryptTo(n node, e *Encryption) {
	recipients, identity := r.recipients, r.identity
	if r.namesOnly { // it was right for the daemon
		recipients, identity = func(node, *Encryption) {}, r.identityIfThere
	}
	given := r.mapping(n, "encryption", []field{
		{"recipients", func(n node) { recipients(n, e) }},
		{"identity_file", func(n node) { identity(n, e) }},
	})
	switch {
	case given == nil:
	case !given["recipients"]:
		r.fail(r.at(n), `"encryption" has no "recipients": nothing would be encrypted`)
	case !e.Identity.Empty() && len(e.Recipients) > 0 && !e.Identity.Opens(e.Recipients...):
		r.fail(r.where["encryption.identity_file"], "no key in "+e.Identity.String()+" opens what is encrypted to these recipients")
	}
}

func (r *reader) recipients(n node, e *Encryption) {
	seen := map[string]bool{}
	for _, item := range r.list(n, "recipients") {
		var key crypt.Recipient
		read(r, item, &key, crypt.ParseRecipient)
		switch {
		case key.String() == "": // its own error was told
		case seen[key.String()]:
			r.fail(r.at(item), "this recipient is given twice: is another one missing?")
		case len(e.Recipients) > 0 && key.Hybrid() != e.Recipients[0].Hybrid():
			r.fail(r.at(item), "hybrid recipients (age1pq1…) and classic ones don't go together: for the classic ones a quantum computer would open the files")
		default:
			e.Recipients = append(e.Recipients, key)
		}
		seen[key.String()] = true
	}
}

func (r *reader) identity(n node, e *Encryption) {
	var file string
	r.value(n, &file, path)
	if file == "" {
		return
	}
	identity, warning, err := ReadIdentity(file)
	if err != nil {
		r.fail(r.at(n), err.Error())
		return
	}
	if warning != "" {
		r.warnings = append(r.warnings, warning)
	}
	e.Identity = identity
}

// identityIfThere is identity for who may not need it.
func (r *reader) identityIfThere(n node, e *Encryption) {
	quiet := &reader{file: r.file, env: r.env, anchors: r.anchors, where: map[string]place{}}
	quiet.identity(n, e)
	if len(quiet.errs) > 0 {
		e.Identity = crypt.Missing(errors.New(quiet.errs[0].Msg))
	}
	r.warnings = append(r.warnings, quiet.warnings...)
}
