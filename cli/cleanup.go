package cli

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/dnslet/dnslet/intercept"
)

func cleanupCommand() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove what a dead agent may have left in the kernel",
		Long: `Removes every trace of dnslet's interception from this network namespace: its nftables tables and
its local route. It may be repeated. What a live agent owns is not touched: stop the agent, and the
kernel removes it.

On Linux 5.12 and later a dead agent leaves at most a route that harms nobody; on older kernels its
table stays, and lets every packet go to cluster DNS.

Example:
  dnslet cleanup --dry-run
  dnslet cleanup`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			removed, err := intercept.Cleanup(dry)
			word := "removed"
			if dry {
				word = "would remove"
			}
			for _, r := range removed {
				fmt.Fprintln(cmd.OutOrStdout(), escape(word+" "+r))
			}
			switch {
			case errors.Is(err, fs.ErrPermission):
				return withRemedy(err, "run it as root (CAP_NET_ADMIN)")
			case err != nil:
				return err
			case len(removed) == 0:
				fmt.Fprintln(cmd.OutOrStdout(), "nothing to remove")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be removed, and remove nothing")
	return cmd
}
