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
)

func (a *app) checkCommand() *cobra.Command {
	var m masterFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Tell whether archiving is going to work, and what it will cost; changes nothing",
		Long: `Tell whether archiving is going to work, and what it will cost: is the configuration
right, can masters and stores be reached, which rights are missing, how large the fork is that
attaching costs, and whether the master's backlog and buffers cover it. Each finding is "ok",
"warn" (it works, and has a price) or "FAIL" (it doesn't work), with what to do, often a line to
paste. Nothing is changed, on the master or on disk. Where the configuration has "max_age", what is
too old in a store is a "FAIL" too, whether a daemon runs or not.

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
	stores, limits, now := toJudge(ctx, c), maxAge(c), time.Now()
	var g errgroup.Group
	g.SetLimit(8) // sources are many, and one that hangs holds up only its own answer
	for i, s := range c.Sources {
		g.Go(func() error {
			masters[i] = a.ask(ctx, s, running)
			for _, st := range stores {
				masters[i].findings = append(masters[i].findings, ages(ctx, st, s.Name, limits, now)...)
			}
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
		dataset += m.dataset
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

// asked is what one master said.
type asked struct {
	findings []check.Finding
	dataset  int64
}

func (a *app) ask(ctx context.Context, s config.Source, running bool) asked {
	failed := func(err error) asked {
		f := check.Finding{Name: "master", Level: check.Fail, Message: err.Error()}
		var way interface{ Hint() string }
		if errors.As(err, &way) {
			f.Hint = way.Hint()
		}
		return asked{findings: []check.Finding{f}}
	}
	tls, err := connection(s)
	if err != nil {
		return failed(err)
	}
	m := check.Master{Address: s.Address, Username: s.Username, Password: string(s.Password), TLS: tls, Sample: time.Second, Timeout: timeout}
	facts, err := m.Ask(ctx)
	if err != nil {
		return failed(err)
	}
	return asked{check.Advise(facts, s.Username, running), facts.Dataset()}
}

// local looks at what is on this machine, and at the stores.
func (a *app) local(ctx context.Context, c *config.Config, dataset int64, running bool) []check.Finding {
	var list []check.Finding
	spool := check.Folder{Name: "spool", Path: c.Spool.Path, MinFree: c.Spool.MinFree.Of, Needs: dataset + int64(c.Spool.MaxSize), What: "the first snapshot with the stream up to max_size"}
	list = append(list, spool.Check()...)
	for _, s := range c.Stores {
		if s.Type == config.TypeS3 {
			list = append(list, bucket(ctx, s.S3)...)
			continue
		}
		store := check.Folder{Name: "store", Path: s.Path, MinFree: c.Spool.MinFree.Of, Needs: dataset, What: "the first snapshot"}
		list = append(list, store.Check()...)
	}
	if e := c.Encryption; len(e.Recipients) > 0 {
		f := check.Finding{Name: "encryption", Level: check.OK, Message: "what is stored is encrypted to " + plural(int64(len(e.Recipients)), "recipient", "recipients")}
		if e.Identity.Empty() {
			f.Hint = "a restore needs a secret key of theirs: --identity FILE; who has lost them all has lost the archive"
		}
		list = append(list, f)
	}
	if os.Geteuid() == 0 {
		list = append(list, check.Finding{Name: "user", Level: check.OK, Message: "these were asked as root; the daemon's own user may have fewer rights", Hint: "run this as that user: sudo -u offloader offloader check"})
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
