package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/dnslet/dnslet/api"
	"github.com/dnslet/dnslet/config"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check, compare and describe configuration files",
		Long: `Works on configuration files, without an agent: checks one before it is applied, compares two, prints
the JSON Schema for an editor. docs/config.md explains every key.

Example:
  dnslet config check dnslet.yaml
  dnslet config diff old.yaml new.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(configCheckCommand(), configDiffCommand(), configSchemaCommand())
	return cmd
}

const configCheckLong = `Checks a configuration file as the agent would before it applies it, and prints every problem found: where,
which key, why, and what to write instead. Also named is what is allowed but may surprise: endpoints that
are dnslet itself and will not be asked, zones that are answered differently while dnslet does not answer.

FILE - is stdin. Ends with 1 when the file is refused.

Example:
  dnslet config check dnslet.yaml
  dnslet config check -o yaml --set cache.size=64MiB dnslet.yaml
  kubectl -n kube-system get configmap dnslet -o jsonpath='{.data.config\.yaml}' | dnslet config check -`

func configCheckCommand() *cobra.Command {
	var output string
	var set []string
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file",
		Long:  configCheckLong,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := outputFlag(output, "text", "json", "yaml"); err != nil {
				return err
			}
			data, err := readConfig(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			return configCheck(data, args[0], set, output, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringArrayVar(&set, "set", nil, "key=value over the file, as 'dnslet agent' takes it; may be repeated")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "how to print: text, json, or yaml (the whole configuration in force, with the defaults)")
	return cmd
}

// configReport is what `dnslet config check -o json` prints.
type configReport struct {
	SchemaVersion int              `json:"schemaVersion"`
	File          string           `json:"file"`
	OK            bool             `json:"ok"`
	Problems      config.Errors    `json:"problems"`
	Warnings      []config.Warning `json:"warnings"`
}

func configCheck(data []byte, file string, set []string, output string, stdout, stderr io.Writer) error {
	c, warnings, err := config.Check(data, file, set...)
	problems := config.Errors{}
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	switch output {
	case "json":
		report := configReport{api.SchemaVersion, file, err == nil, problems, append([]config.Warning{}, warnings...)}
		if jerr := printJSON(stdout, report); jerr != nil {
			return jerr
		}
	case "yaml":
		printFindings(stderr, problems, warnings)
		if err == nil {
			if _, werr := stdout.Write(c.YAML()); werr != nil {
				return fmt.Errorf("cannot print the configuration: %w", werr)
			}
		}
	default:
		printFindings(stdout, problems, warnings)
		if err == nil {
			fmt.Fprintf(stdout, "ok    %s\n", escape(file))
		}
	}
	if err != nil {
		return foundErrors()
	}
	return nil
}

// printFindings prints a word and a finding a line. Keys and values come from a file that may be anybody's.
func printFindings(w io.Writer, problems config.Errors, warnings []config.Warning) {
	p := paintFor(w)
	for _, e := range problems {
		fmt.Fprintf(w, "%s  %s\n", p.state(api.Fail, "fail"), escape(e.String()))
	}
	for _, e := range warnings {
		fmt.Fprintf(w, "%s  %s\n", p.state(api.Warn, "warn"), escape(e.String()))
	}
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("cannot print JSON: %w", err)
	}
	return nil
}

func configDiffCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Show what a new configuration file would change",
		Long: `Compares what two configuration files mean, defaults included: not their text. Each line is a key, its old
and its new value; "(restart)" marks what an agent takes over only when it is started again, everything
else it applies to a running one. FILE - is stdin.

Example:
  dnslet config diff old.yaml new.yaml
  dnslet config diff -o json old.yaml new.yaml`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := outputFlag(output, "text", "json"); err != nil {
				return err
			}
			var both [2]config.Config
			for i, file := range args {
				data, err := readConfig(file, cmd.InOrStdin())
				if err != nil {
					return err
				}
				if both[i], err = config.Parse(data, file); err != nil {
					return err
				}
			}
			return configDiff(config.Diff(both[0], both[1]), output, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "how to print: text or json")
	return cmd
}

// configChanges is what `dnslet config diff -o json` prints.
type configChanges struct {
	SchemaVersion int             `json:"schemaVersion"`
	Restart       bool            `json:"restart"` // at least one change needs one
	Changes       []config.Change `json:"changes"`
}

func configDiff(changes []config.Change, output string, w io.Writer) error {
	restarts := 0
	for _, c := range changes {
		if c.Restart {
			restarts++
		}
	}
	if output == "json" {
		return printJSON(w, configChanges{api.SchemaVersion, restarts > 0, append([]config.Change{}, changes...)})
	}
	for _, c := range changes {
		fmt.Fprintln(w, escape(c.String()))
	}
	_, err := fmt.Fprintf(w, "%d changed, %d of them need a restart\n", len(changes), restarts)
	return err
}

func configSchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration file",
		Long: `Prints the JSON Schema (draft 2020-12) of the configuration file. Editors that speak it complete keys and show
mistakes while one writes.

Example:
  dnslet config schema > dnslet.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Schema())
			return err
		},
	}
}

// readConfig returns the text of a configuration file; "-" is stdin. It is never nil: no text is not no file.
func readConfig(file string, stdin io.Reader) ([]byte, error) {
	var data []byte
	var err error
	if file == "-" {
		data, err = io.ReadAll(stdin)
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	return append([]byte{}, data...), nil
}
