// Gostub looks names up with Go's own stub resolver and prints one line a name, as lookup.c does.
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
	resolver := &net.Resolver{PreferGo: true}
	for _, name := range os.Args[1:] {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		addrs, err := resolver.LookupHost(ctx, name)
		cancel()
		if err != nil {
			text := err.Error()
			if e := (*net.DNSError)(nil); errors.As(err, &e) {
				text = e.Err
			}
			fmt.Printf("%s error: %s\n", name, text)
			continue
		}
		slices.Sort(addrs)
		fmt.Println(name, strings.Join(addrs, " "))
	}
}
