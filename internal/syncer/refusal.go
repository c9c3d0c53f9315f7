package syncer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/offloader/offloader/internal/rdbwalk"
)

// Kind names a sort of failure, for metrics.
type Kind string

// A RefusalError says why a connection to a master came to nothing, or ended.
type RefusalError struct {
	Kind    Kind
	Master  string // host:port
	Stage   string // what was being done: "PSYNC", "the RDB"
	Reply   string // what the master said, "" if it said nothing
	What    string // what that means
	Do      string // the way out, "" where there is none to tell
	Passing bool   // it will pass by itself, soon
	Err     error  // of the network, may be nil
}

func (e *RefusalError) Error() string {
	s := e.Master + ", " + e.Stage + ": " + e.What
	if e.Reply != "" {
		s += fmt.Sprintf(" (it said %q)", e.Reply)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Hint says what to do.
func (e *RefusalError) Hint() string { return e.Do }

func (e *RefusalError) Unwrap() error { return e.Err }

// Hint is the way out that err knows, "" if it knows none.
func Hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// KindOf is the sort of failure that err is.
func KindOf(err error) Kind {
	var refusal *RefusalError
	var budget *BudgetError
	switch {
	case errors.As(err, &refusal):
		return refusal.Kind
	case errors.As(err, &budget):
		return KindBudget
	case errors.As(err, new(*RebirthError)):
		return KindRebirth
	}
	return KindLocal
}

// Kinds of failures.
const (
	KindPassword    Kind = "password"     // AUTH was refused, or is demanded
	KindPermission  Kind = "permission"   // the user lacks a command
	KindLoading     Kind = "loading"      // the master reads its dataset
	KindMasterDown  Kind = "masterdown"   // the source is a replica without its master
	KindBusy        Kind = "busy"         // a script runs
	KindProtected   Kind = "protected"    // protected mode
	KindFull        Kind = "maxclients"   // too many clients
	KindNotMaster   Kind = "not-a-master" // no Redis, or a Sentinel
	KindTLS         Kind = "tls"
	KindUnreachable Kind = "unreachable"
	KindSave        Kind = "bgsave"      // the master can't make an RDB
	KindDamaged     Kind = "damaged-rdb" // the RDB is not sound
	KindClosed      Kind = "closed"      // the master ended the connection
	KindTimeout     Kind = "timeout"     // silence
	KindRefused     Kind = "refused"     // an error that we have no better name for
	KindBudget      Kind = "budget"      // a full resync waits
	KindRebirth     Kind = "rebirth"     // the source is a replica of ours that isn't to be promoted, or not yet
	KindLocal       Kind = "local"       // the trouble is on our side
)

// The stages at which a master can refuse.
const (
	stageConnect  = "connect"
	stageAuth     = "AUTH"
	stagePing     = "PING"
	stageInfo     = "INFO"
	stageRole     = "ROLE"
	stagePromote  = "REPLICAOF NO ONE"
	stageReplconf = "REPLCONF"
	stagePsync    = "PSYNC"
	stageSync     = "SYNC"
	stageSentinel = "SENTINEL MASTER"
	stageRDB      = "the RDB"
	stageStream   = "the stream"
)

// aclLine is what to paste for a user that lacks something. %s is its name.
const aclLine = "ACL SETUSER %s resetkeys resetchannels +psync +replconf +ping +info +role '+config|get'"

// refusals are the error replies of masters that mean something of their own. The first row
// whose beginning fits counts; stage "" is any. In do, %s is our user's name.
var refusals = []struct {
	begins  string // without the '-', capitals as the engines write them
	stage   string
	kind    Kind
	what    string
	do      string
	passing bool
}{
	{"WRONGPASS", "", KindPassword, "user or password is wrong, or the user is off", "check the username and the password's source; at the master: ACL GETUSER %s", false},
	{"ERR AUTH <password> called without any password", "", KindPassword, "a password is configured here, but the master has none for the default user", "take the password away here, or name the username that it belongs to", false},
	{"ERR Client sent AUTH, but no password is set", "", KindPassword, "a password is configured here, but the master has none", "take the password away here", false},
	{"ERR invalid password", "", KindPassword, "the password is wrong", "check the password's source", false},
	{"NOAUTH", stageSentinel, KindPassword, "it wants a password, and is sent none", "", false},
	{"NOAUTH", "", KindPassword, "the master wants a password", "give a username and a password_file for it", false},
	{"NOPERM", stagePromote, KindPermission, "the user may not make it the master again", "at the master: ACL SETUSER %s +replicaof", false},
	{"NOPERM", "", KindPermission, "the user lacks a right that a replica needs", "at the master: " + aclLine, false},
	{"LOADING", "", KindLoading, "the master is loading its dataset", "wait; INFO persistence there shows how far it is (loading_eta_seconds)", true},
	{"MASTERDOWN", "", KindMasterDown, "it is a replica without a link to its own master", "bring that link up, or name the master itself", true},
	{"NOMASTERLINK", "", KindMasterDown, "it is a replica that can't serve others at the moment", "bring its link to its own master up, or name the master itself", true},
	{"BUSY", "", KindBusy, "the master is busy with a script", "wait, or at the master: SCRIPT KILL (or FUNCTION KILL)", true},
	{"DENIED", "", KindProtected, "the master is in protected mode and takes no connections from elsewhere", "at the master: set a password or an ACL user, then CONFIG SET protected-mode no; see also its bind", false},
	{"ERR max number of clients reached", "", KindFull, "the master has as many clients as it takes", "at the master: raise maxclients, or find who holds so many connections (CLIENT LIST)", true},
	{"ERR BGSAVE failed", "", KindSave, "the master can't save: no RDB, no replication", "look into its log; often memory (vm.overcommit_memory) or disk", false},
	{"ERR Can't SYNC while", "", KindMasterDown, "the master is changing its role", "", true},
	{"READONLY", "", KindRefused, "the master refuses to write", "", false},
}

// refused makes an error of an error reply, which comes without its '-'.
func refused(master, stage, user, reply string) *RefusalError {
	e := &RefusalError{Kind: KindRefused, Master: master, Stage: stage, Reply: printable(reply), What: "the master refuses"}
	if user == "" {
		user = "default"
	}
	for _, r := range refusals {
		if strings.HasPrefix(reply, r.begins) && (r.stage == "" || r.stage == stage) {
			e.Kind, e.What, e.Passing, e.Do = r.kind, r.what, r.passing, r.do
			if strings.Contains(r.do, "%s") {
				e.Do = fmt.Sprintf(r.do, user)
			}
			break
		}
	}
	return e
}

// isUnknownCommand tells the reply of a server that doesn't know a command.
func isUnknownCommand(reply string) bool {
	return strings.HasPrefix(strings.ToLower(reply), "err unknown command")
}

// foreign makes an error of bytes that no Redis sends.
func foreign(master, stage string, line []byte) *RefusalError {
	e := &RefusalError{Kind: KindNotMaster, Master: master, Stage: stage, Reply: printable(string(line)),
		What: "what answers there is no Redis or Valkey", Do: "check the address and the port"}
	switch {
	case strings.HasPrefix(string(line), "HTTP/"):
		e.What = "a web server answers there, no Redis or Valkey"
	case len(line) >= 2 && (line[0] == 0x15 || line[0] == 0x16) && line[1] == 3: // a TLS record: alert, handshake
		e.Kind, e.What, e.Do = KindTLS, "the port speaks TLS", "configure tls for this source, or give the plain port"
	}
	return e
}

// printable cuts s to what a log line should hold.
func printable(s string) string {
	const most = 200
	s = strings.ToValidUTF8(strings.TrimRight(s, "\r\n"), "?")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// unreachable says that no connection was made.
func unreachable(master string, err error) error {
	e := &RefusalError{Kind: KindUnreachable, Master: master, Stage: stageConnect, Err: err, Passing: true,
		What: "no connection", Do: "is the address right, the server up, the firewall open?"}
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &dns):
		e.What, e.Do, e.Passing = "its name can't be resolved", "check the address", false
	case errors.Is(err, syscall.ECONNREFUSED):
		e.What, e.Do = "nothing listens there", "is the server up, and is this its port?"
	case isTimeout(err):
		e.What, e.Do, e.Passing = "no answer", "is the address right, the firewall open?", false
	}
	return e
}

// tlsRefused says why the TLS handshake failed.
func tlsRefused(master string, err error) *RefusalError {
	e := &RefusalError{Kind: KindTLS, Master: master, Stage: "TLS", Err: err, What: "no TLS connection", Do: "check tls: ca_file, cert_file, key_file, server_name"}
	var plain tls.RecordHeaderError
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.As(err, &plain):
		e.What, e.Do = "the port doesn't speak TLS", "take tls away from this source, or give the TLS port"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), isTimeout(err):
		e.What, e.Do = "the port doesn't speak TLS, or refuses ours", "take tls away from this source, or give the TLS port"
	case errors.As(err, &authority):
		e.What, e.Do = "its certificate is signed by nobody we know", "give the authority's certificate: tls.ca_file"
	case errors.As(err, &name):
		e.What, e.Do = "its certificate is for another name", "give the certificate's name: tls.server_name"
	case isAlert(err):
		e.What, e.Do = "the master refuses our certificate, or wants one", "give tls.cert_file and tls.key_file, signed by an authority that the master knows"
	}
	return e
}

// lost says why a connection that was there has ended. stage is what it was needed for.
func lost(master, stage string, err error) error {
	e := &RefusalError{Kind: KindClosed, Master: master, Stage: stage, Err: err, What: "the connection broke", Passing: stage == stageStream}
	var refusal *RefusalError
	switch {
	case errors.As(err, &refusal):
		return err
	case isAlert(err):
		return tlsRefused(master, err) // TLS 1.3 tells after the handshake that a client certificate is missing
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		e.What, e.Err = "the master closed the connection", nil
		if stage == stagePing || stage == stageAuth {
			e.Do = "if its port speaks TLS, configure tls for this source; else look into its log"
		}
	case isTimeout(err):
		e.Kind, e.What, e.Err = KindTimeout, "the master is silent", nil
		e.Do = "is it hanging, or the network between?"
	}
	return e
}

// noRDB says that a full resync was promised, and then the connection was closed.
func noRDB(master string) *RefusalError {
	e := &RefusalError{Kind: KindSave, Master: master, Stage: stageRDB, What: "the master promised a full resync and then closed the connection: the child that saves has died, or our output buffer there was full"}
	e.Do = "look into its log; often memory (vm.overcommit_memory), disk, or client-output-buffer-limit replica"
	return e
}

// unsound says that an RDB came, but not as the engine wrote it.
func unsound(master string, err error) error {
	var format *rdbwalk.FormatError
	var sum *rdbwalk.ChecksumError
	if !errors.As(err, &format) && !errors.As(err, &sum) {
		return lost(master, stageRDB, err)
	}
	return &RefusalError{Kind: KindDamaged, Master: master, Stage: stageRDB, Err: err,
		What: "the RDB is damaged, and begins no timeline",
		Do:   "it is asked for again; if that doesn't help, memory or network of the two hosts are at fault"}
}

// isAlert tells the other side's word that it doesn't like our TLS.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
