package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/offloader/offloader/internal/check"
	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/stale"
)

func (a *app) checkCommand() *cobra.Command {
	var m masterFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Tell whether archiving is going to work, and what it will cost; changes nothing",
		Long: `Tell whether archiving is going to work, and what it will cost: is the configuration
right, can masters, stores, places of exports and the replica for snapshots be reached, which rights
are missing, how large the fork is that attaching costs, whether the master's backlog and buffers cover
it, whether the master goes on with what is archived already, and whether replicas can attach to a relay.
Each finding is "ok", "warn" (it works, and has a price) or "FAIL" (it doesn't work), with what to do,
often a line to paste. Nothing is changed, on the master, in a store or on disk, and the heartbeat isn't
called: so of some things only a part can be tried, and what wasn't is said. A source of which something is
archived is "ready" to have its master's persistence switched off after one success of verify --boot. Where the
configuration has "max_age", what is too old in a store is a "FAIL" too, whether a daemon runs or not.

Exit codes: 0 all is fine, or there are only warnings; 1 something fails; 2 wrong usage or
configuration.`,
		Example: "  offloader check\n  offloader check --config offloader.yaml --json\n  offloader check --master 127.0.0.1:6379 --archive /srv/archive --username offloader",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.configuration(cmd.Context(), m)
			if err != nil {
				return err
			}
			return a.check(cmd.Context(), c)
		},
	}
	m.add(cmd)
	return cmd
}

// report is what check prints.
type report struct {
	OK     bool            `json:"ok"` // nothing fails
	Checks []check.Finding `json:"checks"`
}

func (a *app) check(ctx context.Context, c *config.Config) error {
	running, err := check.Running(c.Spool.Path)
	if err != nil {
		return fmt.Errorf("look at the spool %s: %w", c.Spool.Path, err)
	}
	r := report{OK: true}
	var dataset int64
	masters := make([]asked, len(c.Sources))
	stores, limits, now := readable(ctx, c), maxAge(c), time.Now()
	archived, daemon := a.archived(ctx, c, running), a.running(ctx, c, running)
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, s := range c.Sources {
		g.Go(func() error {
			cats, held := a.held(ctx, stores, s.Name, limits, now)
			masters[i] = a.ask(ctx, s, c, check.Ours{User: s.Username, Attached: running, AckStore: c.Ack == "store", Stored: stored(cats), Booted: ready(held)})
			masters[i].findings = append(masters[i].findings, archived(s.Name, masters[i].facts)...)
			masters[i].findings = append(masters[i].findings, checkRelay(ctx, s, daemon)...)
			masters[i].findings = append(masters[i].findings, held...)
			masters[i].findings = append(masters[i].findings, rebirthOf(ctx, s, c, masters[i], cats)...)
			return nil
		})
	}
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return err
	}
	for i, m := range masters {
		for _, f := range m.findings {
			f.Source = c.Sources[i].Name
			r.Checks = append(r.Checks, f)
		}
		if m.facts != nil {
			dataset += m.facts.Dataset()
		}
	}
	r.Checks = append(r.Checks, a.local(ctx, c, dataset, running)...)
	failed := 0
	for _, f := range r.Checks {
		if f.Level == check.Fail {
			failed++
		}
	}
	r.OK = failed == 0
	if a.json {
		err = a.term.json(r)
	} else {
		err = a.printReport(c, r)
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d checks failed", failed, len(r.Checks))
	}
	return err
}

// atOnce is how much is looked at side by side: it is many, and what hangs holds up only its own answer.
const atOnce = 8

// asked is what one master said.
type asked struct {
	findings []check.Finding
	facts    *check.Facts // nil where it could not be asked
	master   check.Master
}

// ask asks a source's master, and the replica of it that snapshots are taken of.
func (a *app) ask(ctx context.Context, s config.Source, c *config.Config, us check.Ours) asked {
	tls, err := connection(s)
	if err != nil {
		return asked{findings: []check.Finding{failed("master", err)}}
	}
	m := check.Master{Address: s.Address, Username: s.Username, Password: string(s.Password), TLS: tls, Sample: time.Second, Timeout: timeout}
	if s.Relay != nil {
		m.Relay = s.Relay.Listen
	}
	master := asked{master: m}
	if master.facts, err = m.Ask(ctx); err != nil {
		master.findings = append(master.findings, failed("master", err))
	} else {
		master.findings = check.Advise(master.facts, us)
	}
	if c.Snapshots.Method == config.MethodReplica {
		m.Address, m.Sample = c.Snapshots.Address, 0 // the rest is its master's
		if replica, err := m.Ask(ctx); err != nil {
			master.findings = append(master.findings, failed("replica", err))
		} else {
			master.findings = append(master.findings, check.AdviseReplica(replica, master.facts, us)...)
		}
	}
	return master
}

// failed is an error as a finding.
func failed(name string, err error) check.Finding {
	f := check.Finding{Name: name, Level: check.Fail, Message: err.Error()}
	var way interface{ Hint() string }
	if errors.As(err, &way) {
		f.Hint = way.Hint()
	}
	return f
}

// archived gives what tells of a master whether it goes on with what is archived of its source. Nobody
// asks while a daemon runs: it is attached, or says why not.
func (a *app) archived(ctx context.Context, c *config.Config, running bool) func(source string, f *check.Facts) []check.Finding {
	nothing := func(string, *check.Facts) []check.Finding { return nil }
	if running {
		return nothing
	}
	o, err := a.openPlaces(ctx, c)
	if err != nil {
		return nothing // what is said of the stores is enough
	}
	o.say = func(string, ...any) {} // the same
	return func(source string, f *check.Facts) []check.Finding {
		if f == nil {
			return nil
		}
		ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
		defer cancel()
		mine := *o
		mine.said = map[string]bool{} // others ask at the same time
		cat, err := mine.load(source)(ctx)
		if err == nil && len(cat.Problems) > 0 {
			err = cat.Problems[0] // the newest timeline may be what can't be read
		}
		if err != nil {
			return []check.Finding{{Name: "archive", Level: check.Warn, Message: fmt.Sprintf("whether the master goes on with what is archived can't be told: %v", err)}}
		}
		if len(cat.Timelines) == 0 {
			return nil
		}
		newest, end := cat.Timelines[len(cat.Timelines)-1], stale.Of(cat)
		at := newest.End()
		return check.AdviseHistory(f, check.Archived{Timeline: newest.Timeline, ReplID: newest.ReplIDAt(at), Offset: at, Last: end.Stored.Go()}, time.Now())
	}
}

// local looks at what is on this machine, and at what it sends to.
func (a *app) local(ctx context.Context, c *config.Config, dataset int64, running bool) []check.Finding {
	var list []check.Finding
	spool := check.Folder{Name: "spool", Path: c.Spool.Path, MinFree: c.Spool.MinFree.Of, Needs: dataset + int64(c.Spool.MaxSize), What: "the first snapshot with the stream up to max_size"}
	list = append(list, spool.Check()...)
	list = append(list, places(ctx, c, dataset)...)
	if e := c.Encryption; len(e.Recipients) > 0 {
		f := check.Finding{Name: "encryption", Level: check.OK, Message: "what is stored is encrypted to " + plural(int64(len(e.Recipients)), "recipient", "recipients")}
		if e.Identity.Empty() {
			f.Hint = "a restore needs a secret key of theirs: --identity FILE; who has lost them all has lost the archive"
		}
		list = append(list, f)
	}
	if os.Geteuid() == 0 {
		list = append(list, check.Finding{Name: "user", Level: check.OK, Message: "these were asked as root; the daemon's own user may have fewer rights",
			Hint: "run this as that user: sudo -u offloader offloader check; where systemd hands it passwords: systemd-run --pipe --wait -p User=offloader offloader check, with the unit's LoadCredential lines as -p too"})
	}
	if running {
		return append(list, check.Finding{Name: "daemon", Level: check.OK, Message: "a daemon is at work on this spool: see `offloader status`"})
	}
	return append(list, port(ctx, c.HTTP.Listen))
}

// port tells whether the daemon will get its port. Without the default one, which nobody has asked
// for, it goes on.
func port(ctx context.Context, address string) check.Finding {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err == nil {
		err = l.Close()
	}
	switch {
	case err == nil:
		return check.Finding{Name: "http", Level: check.OK, Message: address + " is free for metrics, health and the API"}
	case errors.Is(err, syscall.EADDRINUSE) && address == config.DefaultListen:
		return check.Finding{Name: "http", Level: check.Warn, Message: address + " is in use: there won't be metrics and health", Hint: "give http.listen in a configuration; `offloader status` works"}
	case errors.Is(err, syscall.EADDRINUSE):
		return check.Finding{Name: "http", Level: check.Fail, Message: address + " is in use by another process", Hint: "give http.listen another port"}
	}
	return check.Finding{Name: "http", Level: check.Fail, Message: err.Error(), Hint: "give http.listen an address of this host"}
}

// printReport is for people: a block for each source, then this machine's.
func (a *app) printReport(c *config.Config, r report) error {
	address := map[string]string{}
	for _, s := range c.Sources {
		address[s.Name] = " at " + s.Address
	}
	width, last := 0, "\x00"
	for _, f := range r.Checks {
		width = max(width, len(f.Name))
	}
	marks := map[check.Level]struct{ word, colour string }{check.OK: {"ok", "32"}, check.Warn: {"warn", "33"}, check.Fail: {"FAIL", "31;1"}}
	var b strings.Builder
	for _, f := range r.Checks {
		if f.Source != last {
			head := "this machine"
			if f.Source != "" {
				head = f.Source + address[f.Source]
			}
			fmt.Fprintf(&b, "%s\n", paint(a.term.colour, "1", head))
			last = f.Source
		}
		mark := marks[f.Level]
		fmt.Fprintf(&b, "  %s%s  %-*s  %s\n", paint(a.term.colour, mark.colour, mark.word), strings.Repeat(" ", 4-len(mark.word)), width, f.Name, f.Message)
		if f.Hint != "" {
			fmt.Fprintf(&b, "  %*s→ %s\n", 6+width+2, "", f.Hint)
		}
	}
	return a.term.print("%s", strings.TrimSuffix(b.String(), "\n"))
}
