// Command dnslet is the node agent and everything one runs on or towards a node.
package main

import (
	"os"

	"github.com/dnslet/dnslet/cli"
)

func main() { os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) }
