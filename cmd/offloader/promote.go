package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/offloader/offloader/internal/rebirth"
)

func (a *app) promoteCommand() *cobra.Command {
	var name string
	var empty, latest bool
	cmd := &cobra.Command{
		Use:   "promote",
		Short: "Let a source that waits to be reborn start from nothing, or from what there is",
		Long: `Let a source that waits to be reborn go on. A server that was started as a replica of the relay gets
its data and becomes the master by itself, where it is certain that this is right. Where it isn't it
waits, refuses writes, and "offloader status" says why. Then this is the word:

  --empty   it becomes the master with no data: for a first start, or to give up what is archived.
            That is named, and kept: what begins then is suspect until release
  --latest  it becomes the master with what there is: also where another server may be ahead or a
            master; where the newest timeline is suspect, with the one before it

The daemon is asked by the socket in its spool.

Exit codes: 0 it is the master; 1 failed; 2 wrong usage or configuration.`,
		Example: "  offloader promote --source cache --empty\n  offloader promote --latest",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			order := rebirth.Latest
			switch {
			case empty == latest:
				return usagef("--empty starts from nothing, --latest from what there is", "say one of --empty and --latest")
			case empty:
				order = rebirth.Empty
			}
			spool, name, err := a.daemonOf(cmd.Context(), name)
			if err != nil {
				return err
			}
			said, err := orderDaemon(cmd.Context(), spool, name, "promote/"+string(order))
			if err != nil {
				return err
			}
			return a.term.print("%s", strings.TrimSpace(string(said)))
		},
	}
	a.sourceFlag(cmd, &name)
	cmd.Flags().BoolVar(&empty, "empty", false, "start from nothing")
	cmd.Flags().BoolVar(&latest, "latest", false, "start from what there is")
	return cmd
}
