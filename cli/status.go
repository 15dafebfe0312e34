package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnslet/dnslet/api"
)

const statusLong = `Shows on one screen what the DNS of this node is doing: whether pods' questions are intercepted
and, if not, why; listeners, cache, upstream endpoints with their health, configuration.

Every line begins with a word: ok, warn (answers, but not as well as configured), fail (does not
work), skip (not in use; the reason is beside it). Ends with 1 when a part is at fail, with 3 when
no agent answers.

Example:
  dnslet status
  dnslet status -o json
  dnslet status --admin 10.0.0.7:9553`

func statusCommand() *cobra.Command {
	var addr, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what this node's DNS is doing, on one screen",
		Long:  statusLong,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := outputFlag(output, "table", "json"); err != nil {
				return err
			}
			client, err := api.NewClient(addr)
			if err != nil {
				return usageError(err)
			}
			return status(cmd.Context(), client, output, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&addr, "admin", api.DefaultAddr, "HOST:PORT of the agent's HTTP interface")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "how to print: table or json")
	return cmd
}

// status prints the status of the agent that client asks; the error says how the process ends.
func status(ctx context.Context, client *api.Client, output string, w io.Writer) error {
	s, err := client.Status(ctx)
	if errors.Is(err, api.ErrUnreachable) {
		return &exitError{
			code: ExitUnreachable, err: err,
			remedy: "start one with 'dnslet agent', or name its admin.listen address with --admin HOST:PORT",
		}
	}
	if err != nil {
		return err
	}
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		err = enc.Encode(s)
	} else {
		err = printStatus(w, s, paintFor(w), time.Now())
	}
	if err != nil {
		return fmt.Errorf("cannot print status: %w", err)
	}
	if s.State == api.Fail {
		return foundErrors()
	}
	return nil
}
