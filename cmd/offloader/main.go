// Command offloader archives Redis and Valkey masters, and restores any moment of them.
//
// A command is a file: its flags, one call, and what it prints. wire.go turns a configuration or
// an --archive into what the packages of internal need, and terminal.go knows how people and
// programs like to read. Only this package knows flags, terminals and exit codes: one switch
// below turns the type of an error into a code.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/offloader/offloader/internal/archive"
	"github.com/offloader/offloader/internal/config"
	"github.com/offloader/offloader/internal/crypt"
	"github.com/offloader/offloader/internal/plan"
	"github.com/offloader/offloader/internal/verify"
)

// Exit codes, the same for every command.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2 // arguments or configuration
	exitUnreachable = 3 // the point can't be restored
	exitDamaged     = 4 // the archive is damaged
)

// exitCode is the one place that knows which error means which code.
func exitCode(err error) int {
	var (
		usage     *usageError
		wrong     config.Errors
		syntax    *plan.SyntaxError
		ambiguous *plan.AmbiguousError
		unknown   *plan.UnknownTimelineError
		nowhere   *plan.UnreachableError
		empty     *emptyError
		between   *betweenError
		damaged   *archive.DamageError
		found     *verify.FoundError
		differ    *verify.CountError
		locked    *crypt.IdentityError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage), errors.As(err, &wrong), errors.As(err, &syntax), errors.As(err, &ambiguous), errors.As(err, &unknown):
		return exitUsage
	case errors.As(err, &found), errors.As(err, &differ), errors.As(err, &damaged): // also where damage is why a point can't be reached
		return exitDamaged
	case errors.As(err, &locked): // the archive is as it should be, --identity isn't
		return exitUsage
	case errors.As(err, &nowhere):
		if errors.As(errors.Join(nowhere.Problems...), &damaged) {
			return exitDamaged // what can't be read may be what would lead there
		}
		return exitUnreachable
	case errors.As(err, &empty), errors.As(err, &between):
		return exitUnreachable
	}
	return exitFailed
}

// commands is the table of all that this version can do, in the order of its help.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.checkCommand(),
		a.runCommand(),
		a.statusCommand(),
		a.snapshotCommand(),
		a.listCommand(),
		a.logCommand(),
		a.restoreCommand(),
		a.serveCommand(),
		a.promoteCommand(),
		a.exportCommand(),
		a.pinCommand(),
		a.unpinCommand(),
		a.releaseCommand(),
		a.pruneCommand(),
		a.copyCommand(),
		a.verifyCommand(),
		a.versionCommand(),
		a.completionCommand(),
	}
}

func main() {
	redis.SetLogger(silent{})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends us at once
	a := &app{in: os.Stdin, term: newTerminal(os.Stdout, os.Stderr, os.Getenv), env: os.LookupEnv}
	code := a.main(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// silent is what a library says beside the errors that it returns, which are told by us.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// app is what all commands share: where they read and write, and the global flags.
type app struct {
	in   *os.File
	term *terminal
	env  config.Env

	configFile   string // --config
	archiveURL   string // --archive
	json         bool   // --json
	identityFile string // --identity, of all that reads an archive
}

// main runs one command line and tells its error, if it has one.
func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		a.term.fail(err)
	}
	return exitCode(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "offloader",
		Short:         "Archive a Redis or Valkey master, and restore any moment of it",
		Long:          "Offloader attaches to a Redis or Valkey master as a replica, archives every byte of its\nreplication stream, and restores any moment of the past.\n" + exitCodes,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true, // told once, by main
		SilenceUsage:  true,
		Version:       build().Version,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return a.unknownCommand(cmd, args[0])
			}
			cmd.SetOut(a.term.err)
			return errors.Join(cmd.Help(), usagef("", "say what to do"))
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(a.term.out)
	root.SetErr(a.term.err)
	root.SetFlagErrorFunc(a.flagError)
	flags := root.PersistentFlags()
	flags.StringVar(&a.configFile, "config", "", "configuration `FILE` (default "+config.DefaultPath+", when it exists)")
	flags.StringVar(&a.archiveURL, "archive", "", "an archive's `URL` or folder, instead of a configuration")
	flags.BoolVar(&a.json, "json", false, "print data as JSON")
	cobra.EnableCommandSorting = false
	root.AddCommand(a.commands()...)
	root.SetHelpCommand(a.helpCommand())
	return root
}

// exitCodes is the chapter of each command's help.
const exitCodes = `
Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 the point can't be restored;
4 the archive is damaged.`

// laterFlags gives a command flags that it is going to have: hidden, and an error when used.
func laterFlags(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		cmd.Flags().String(name, "", "")
		if err := cmd.Flags().MarkHidden(name); err != nil {
			continue // impossible: it was just made
		}
	}
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range names {
			if cmd.Flags().Changed(name) {
				return notYet("--" + name)
			}
		}
		return nil
	}
}

// A usageError is a command line that can't be meant (exit 2).
type usageError struct{ msg, hint string }

func (e *usageError) Error() string { return e.msg }

// Hint says what was probably meant, "" where nobody knows.
func (e *usageError) Hint() string { return e.hint }

func usagef(hint, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...), hint}
}

// A hintedError is an error that gets its way out where it is known what the user wanted.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }

// Hint says what to do.
func (e *hintedError) Hint() string { return e.hint }

func notYet(what string) error { return usagef("", "%s is not in this version", what) }

// noArgs is for commands that take flags only.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("see `"+cmd.CommandPath()+" --help`", "%s takes no argument, and there is %q", cmd.Name(), args[0])
	}
	return nil
}

func (a *app) unknownCommand(root *cobra.Command, name string) error {
	var known []string
	for _, cmd := range root.Commands() {
		if cmd.IsAvailableCommand() {
			known = append(known, cmd.Name())
		}
	}
	hint := "see `offloader help`"
	if near := config.Nearest(name, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	return usagef(hint, "there is no command %q", name)
}

// flagError names the flag that was meant, as cobra does for commands only.
func (a *app) flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	if args := cmd.Flags().Args(); !cmd.HasParent() && len(args) > 0 {
		return a.unknownCommand(cmd, args[0])
	}
	hint := "see `" + cmd.CommandPath() + " --help`"
	var missing *pflag.NotExistError
	if errors.As(err, &missing) {
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		slices.Sort(known)
		if near := config.Nearest(missing.GetSpecifiedName(), known); near != "" {
			hint = fmt.Sprintf("did you mean --%s?", near)
		}
	}
	if !cmd.HasParent() {
		return usagef(hint, "%v", err)
	}
	return usagef(hint, "%s: %v", cmd.Name(), err)
}

// fail prints an error, and below it, on a line of its own, what to do. An error that holds
// several prints each with its own way out.
func (t *terminal) fail(err error) {
	for _, one := range flatten(err) {
		t.say("%s %s", t.red("offloader:"), strings.TrimSuffix(one.Error(), "\n"))
		var way interface{ Hint() string }
		if errors.As(one, &way) && way.Hint() != "" {
			t.say("%s %s", t.dim("offloader: hint:"), way.Hint())
		}
	}
}

// flatten takes joined errors apart, but no other wrapping.
func flatten(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	if strings.Join(texts(joined.Unwrap()), "\n") != err.Error() {
		return []error{err} // fmt.Errorf with several %w: one sentence
	}
	var list []error
	for _, e := range joined.Unwrap() {
		list = append(list, flatten(e)...)
	}
	return list
}

func texts(list []error) []string {
	out := make([]string, len(list))
	for i, err := range list {
		out[i] = err.Error()
	}
	return out
}
