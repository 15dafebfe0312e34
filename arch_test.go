package dnslet

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dnslet/dnslet/"

// layers is the order in which packages may know each other: a package imports packages of lower layers only. Packages of one
// layer do not know each other, but for the exceptions, each with its reason.
var layers = [][]string{
	{"wire", "api", "lab/netns"},
	{"cache", "upstream", "node", "config"},
	{"resolver", "intercept"},
	{"admin"},
	{"agent"},
	{"lab"},
	{"cli"},
	{"cmd/dnslet"},
}

var exceptions = map[[2]string]string{
	{"config", "node"}: "resolv.conf is a fact of the machine; the configuration may name one",
}

// hot lists the packages that answer queries, and what must never be linked into them: they are to be read, tested and reasoned
// about without a cluster, a registry of metrics, or a kernel that says yes.
var (
	hot       = []string{"wire", "cache", "upstream", "resolver"}
	hotNever  = []string{"k8s.io/", "github.com/prometheus/", "go.yaml.in/", "github.com/vishvananda/netlink", "github.com/google/nftables", "github.com/mdlayher/netlink", "github.com/cilium/ebpf", "github.com/miekg/dns", "os/exec"}
	execNever = []string{"intercept", "node", "agent", "admin", "resolver", "upstream"} // invariant 9: the agent starts no program
)

type pkg struct {
	ImportPath   string
	Imports      []string
	Deps         []string
	TestImports  []string
	XTestImports []string
}

func packages(t *testing.T) map[string]pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatalf("cannot list the packages: %v", err)
	}
	all := map[string]pkg{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(p.ImportPath, module)] = p
	}
}

func layerOf(name string) int {
	return slices.IndexFunc(layers, func(l []string) bool { return slices.Contains(l, name) })
}

// Red when: wire imports cache, or a new package is not given its place.
func TestImportsPointDown(t *testing.T) {
	for name, p := range packages(t) {
		if strings.HasPrefix(name, "test/") || name == "github.com/dnslet/dnslet" {
			continue // programs and tests beside the house may use all of it
		}
		from := layerOf(name)
		if from < 0 {
			t.Errorf("package %s has no place in the layers: give it one in arch_test.go and in ARCHITECTURE.md", name)
			continue
		}
		for _, path := range p.Imports {
			target, ours := strings.CutPrefix(path, module)
			if !ours {
				continue
			}
			if _, allowed := exceptions[[2]string{name, target}]; !allowed && layerOf(target) >= from {
				t.Errorf("%s imports %s, which is not below it: everything points down (ARCHITECTURE.md)", name, target)
			}
		}
	}
}

// Red when: resolver imports client_golang to count something itself.
func TestHotPathIsLean(t *testing.T) {
	all := packages(t)
	for _, name := range hot {
		for _, dep := range all[name].Deps {
			for _, never := range hotNever {
				if dep == strings.TrimSuffix(never, "/") || strings.HasPrefix(dep, strings.TrimSuffix(never, "/")+"/") {
					t.Errorf("%s depends on %s: the packages that answer queries stay free of it", name, dep)
				}
			}
		}
	}
}

// Red when: intercept calls the nft program instead of speaking netlink.
func TestAgentExecutesNothing(t *testing.T) {
	all := packages(t)
	for _, name := range execNever {
		if slices.Contains(all[name].Imports, "os/exec") {
			t.Errorf("%s imports os/exec: the agent starts no other program", name)
		}
	}
}
