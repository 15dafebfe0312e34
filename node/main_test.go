package node

import (
	"os"
	"testing"

	"github.com/dnslet/dnslet/lab/netns"
)

func TestMain(m *testing.M) { os.Exit(netns.Main(m)) }
