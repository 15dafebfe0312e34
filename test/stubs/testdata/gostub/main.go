// Gostub looks names up with Go's own stub resolver and prints one line a name, as lookup.c does but without the
// canonical name: LookupCNAME asks several questions at once and takes the name from whichever is answered first.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	for _, name := range os.Args[1:] {
		fmt.Println(name, lookup(name))
	}
}

func lookup(name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	resolver := &net.Resolver{PreferGo: true}
	addrs, err := resolver.LookupHost(ctx, name)
	if err != nil {
		return fault(err)
	}
	slices.Sort(addrs)
	return strings.Join(addrs, " ")
}

func fault(err error) string {
	text := err.Error()
	if e := (*net.DNSError)(nil); errors.As(err, &e) {
		text = e.Err
	}
	return "error: " + text
}
