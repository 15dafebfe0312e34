# The two commands a newcomer needs are `make demo` and `make test`; `make help` lists the rest.
# Everything is a Go command underneath: make only names them.

SHELL := /bin/bash
GO ?= go
BIN := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -X github.com/dnslet/dnslet/cli.version=$(VERSION)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/dnslet, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/dnslet ./cmd/dnslet

.PHONY: demo
demo: ## a small cluster in namespaces: the incident, with and without dnslet (no root, no packages)
	$(GO) run ./cmd/dnslet lab demo

.PHONY: setup
setup: ## install what some tests use (real stub resolvers); only as root on Debian
	@scripts/setup

.PHONY: test
test: setup ## every test this machine can run, then a list of what was skipped and why
	$(GO) run ./test/report -- $(GO) test -count=1 -timeout 9m ./...

.PHONY: race
race: ## the packages that share memory between threads, under the race detector
	$(GO) run ./test/report -- $(GO) test -race -count=1 -timeout 9m ./wire ./cache ./upstream ./resolver ./config ./admin ./intercept ./agent

.PHONY: soak
soak: ## the tests that take minutes: memory under a black-holed upstream
	DNSLET_SOAK=1 $(GO) run ./test/report -- $(GO) test -count=1 -timeout 30m -run Soak ./resolver ./agent

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, and a build for macOS (the CLI runs there)
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) build -C tools -o ../$(BIN)/staticcheck honnef.co/go/tools/cmd/staticcheck
	$(BIN)/staticcheck ./...
	CGO_ENABLED=0 GOOS=darwin $(GO) build -o /dev/null ./cmd/dnslet

.PHONY: generate
generate: ## rewrite the files that are made from code
	$(GO) generate ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each (default 30s)
	scripts/fuzz $(or $(FUZZTIME),30s)

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) out
