package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dnslet/dnslet/agent"
	"github.com/dnslet/dnslet/config"
)

const agentLong = `Runs the node agent until it is told to stop (SIGTERM, SIGINT; a second one ends it at once).

Without a configuration, a cluster or root it answers on 127.0.0.1:5300, from the resolvers of
/etc/resolv.conf. Changes of the configuration file and of resolv.conf are followed within 2 s; a
file with an error is refused, the one before stays in force, and 'dnslet status' says so.

Log lines go to stderr. Liveness, readiness, metrics and status are served by HTTP on
127.0.0.1:9553 (admin.listen).

Example:
  dnslet agent
  dnslet agent --set listen=127.0.0.1:5300 --set upstream=192.0.2.1:53
  dnslet agent --config /etc/dnslet/config.yaml --set log.level=debug`

func agentCommand() *cobra.Command {
	var file string
	var set []string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the node agent",
		Long:  agentLong,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			signals := make(chan os.Signal, 4)
			signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
			defer signal.Stop(signals)
			ctx, stop := context.WithCancel(cmd.Context())
			defer stop()
			ended := make(chan struct{})
			defer close(ended)
			go obey(signals, ended, stop, cmd.ErrOrStderr())
			return runAgent(ctx, agent.Options{
				File: file, Set: set, Version: buildVersion().Version, Log: cmd.ErrOrStderr(), Getenv: os.Getenv,
			})
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML); without one the defaults are in force")
	cmd.Flags().StringArrayVar(&set, "set", nil, "key=value over the file; may be repeated, lists are written with commas")
	return cmd
}

// obey calls stop at the first signal that asks for it and ends the process at the second. SIGHUP is what many take for
// "read your configuration again": that happens by itself, and a terminal that closes must not take the node's DNS down.
func obey(signals <-chan os.Signal, ended <-chan struct{}, stop func(), stderr io.Writer) {
	stopping := false
	for {
		select {
		case <-ended:
			return
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP:
				fmt.Fprintln(stderr, "SIGHUP: nothing to do, changes of the configuration are followed without it")
			case stopping:
				fmt.Fprintln(stderr, "second signal: ends at once, questions in flight are lost")
				os.Exit(ExitFindings)
			default:
				stopping = true
				stop()
			}
		}
	}
}

// runAgent runs an agent until ctx ends; what goes wrong at its start comes back with what can be done about it.
func runAgent(ctx context.Context, o agent.Options) error {
	a, err := agent.New(o)
	var problems config.Errors
	switch {
	case errors.As(err, &problems) && onlySet(problems):
		return usageError(fmt.Errorf("the assignments are refused\n%w", err))
	case errors.As(err, &problems):
		return withRemedy(fmt.Errorf("the configuration is refused\n%w", err), "correct it and try it with 'dnslet config check "+o.File+"'")
	case err != nil:
		return err
	}
	err = a.Run(ctx)
	var taken *agent.PortTakenError
	if errors.As(err, &taken) && taken.Key == "" {
		return withRemedy(err, "let that program listen on addresses of its own instead of all, or go on without interception: --set intercept.mode=auto")
	}
	if errors.As(err, &taken) {
		return withRemedy(err, fmt.Sprintf("a node has one dnslet agent; stop what has the port, or choose another address with --set %s=IP:PORT", taken.Key))
	}
	if errors.Is(err, fs.ErrPermission) {
		return withRemedy(err, "run it as root, or choose ports above 1023 and intercept.mode=auto")
	}
	return err
}

// onlySet says whether every problem is in the command line's own assignments.
func onlySet(problems config.Errors) bool {
	for _, p := range problems {
		if p.Line > 0 || len(p.File) < 5 || p.File[:5] != "--set" {
			return false
		}
	}
	return true
}
