package cli

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/lab"
	"github.com/dnslet/dnslet/lab/netns"
)

func labCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Make the DNS incidents of clusters happen on this machine",
		Long: `Builds a small cluster in network namespaces on this machine, makes the DNS incidents of real clusters
happen in it, and measures what its pods see, through kube-proxy and with dnslet. It touches nothing
outside of its namespaces and leaves nothing behind, also when it is interrupted. It needs neither
root nor any package where the kernel grants user namespaces.

Example:
  dnslet lab demo
  dnslet lab list
  dnslet lab run quiet`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(labDemoCommand(), labListCommand(), labRunCommand())
	return cmd
}

func labDemoCommand() *cobra.Command {
	var output, svg string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the incident, with and without dnslet, in under two minutes",
		Long: `Plays every scenario on one cluster: lookups through kube-proxy and with dnslet, on a quiet cluster and
under today's conntrack race; then the agent is stopped, killed and started again under load. Prints
one table, and draws the latencies of both paths. Progress goes to stderr. Ends with 1 when dnslet
did not keep what it promises.

Example:
  dnslet lab demo
  dnslet lab demo -o json --svg latencies.svg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return play(cmd, output, func(ctx context.Context, o lab.Options) (int, error) {
				o.SVG = svg
				return lab.Demo(ctx, o)
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "how to print: table or json")
	cmd.Flags().StringVar(&svg, "svg", "dnslet-demo.svg", "file to draw the picture into; empty for none")
	return cmd
}

func labRunCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "run SCENARIO...",
		Short: "Play some scenarios of the demo",
		Long: `Plays the scenarios named, in the order of 'dnslet lab list', on one cluster, and prints what the pods
saw. Ends with 1 when dnslet did not keep what it promises.

Example:
  dnslet lab run quiet
  dnslet lab run -o json stop kill9`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("no scenario is named; 'dnslet lab list' shows them")
			}
			for _, a := range args {
				if !slices.ContainsFunc(lab.List(), func(s lab.Scenario) bool { return s.Name == a }) {
					return fmt.Errorf("unknown scenario %q; there are %s", a, scenarioNames())
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return play(cmd, output, func(ctx context.Context, o lab.Options) (int, error) { return lab.Run(ctx, o, args...) })
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "how to print: table or json")
	return cmd
}

func scenarioNames() string {
	var names []string
	for _, s := range lab.List() {
		names = append(names, s.Name)
	}
	return strings.Join(names, ", ")
}

// play runs scenarios until they end or somebody interrupts; a second interrupt ends the process as it does any other.
func play(cmd *cobra.Command, output string, run func(context.Context, lab.Options) (int, error)) error {
	if err := outputFlag(output, "table", "json"); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	code, err := run(ctx, lab.Options{Output: output, Out: cmd.OutOrStdout(), Progress: cmd.ErrOrStderr()})
	switch {
	case errors.Is(err, netns.ErrUnavailable):
		return withRemedy(err, "run it as root, or let users make user namespaces on this machine")
	case errors.Is(err, context.Canceled):
		return &exitError{code: ExitFindings, err: errors.New("interrupted; everything that was made is gone")}
	case err != nil:
		return err
	case code != 0:
		return &exitError{code: code}
	}
	return nil
}

// scenarioList is what `dnslet lab list -o json` prints.
type scenarioList struct {
	SchemaVersion int            `json:"schemaVersion"`
	Scenarios     []lab.Scenario `json:"scenarios"`
}

func labListCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the scenarios",
		Long: `Lists the scenarios that 'dnslet lab run' plays.

Example:
  dnslet lab list
  dnslet lab list -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := outputFlag(output, "table", "json"); err != nil {
				return err
			}
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), scenarioList{api.SchemaVersion, lab.List()})
			}
			for _, s := range lab.List() {
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", pad(s.Name, 10), s.About)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "how to print: table or json")
	return cmd
}
