# Understudy. `make demo` shows it, `make test` runs every test; each does its
# own set-up on a Debian machine with Go, as root.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# What the Podman bindings need to be built without C libraries.
TAGS        := remote containers_image_openpgp exclude_graphdriver_btrfs
comma       := ,
empty       :=
BUILD_TAGS  := $(subst $(empty) $(empty),$(comma),$(TAGS))
export GOFLAGS := -tags=$(BUILD_TAGS)
# What needs the lab is behind this tag, so that `go test ./...` needs no cluster.
LAB_TAGS    := $(BUILD_TAGS),lab
# The packages with such tests. Each makes its own labs; one package at a time, as
# a cluster's timeouts and a machine that is too busy do not go together.
E2E         := ./agent/cgroup ./agent/podman ./agent/cluster ./test/lab ./test/readme ./test/e2e/...
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS     := -s -w -X github.com/understudy-ha/understudy/agent/api.Software=$(VERSION)
ROUNDS      ?= 3
NAME        ?= lab
NODE        ?= n1

# Versions of the tools that are run, not linked.
GOFUMPT     := mvdan.cc/gofumpt@v0.9.2
LINT        := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.6.2
GOTESTSUM   := gotest.tools/gotestsum@v1.13.0

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

.PHONY: deps
deps: ## install the Debian packages that building, testing and the lab need
	@test/deps.sh

.PHONY: build
build: ## build the binaries into build/
	@mkdir -p build
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o build/understudy ./cmd/understudy
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o build/understudy-ocf ./cmd/understudy-ocf
	CGO_ENABLED=0 go build -trimpath -o build/lab ./test/lab/cmd/lab

.PHONY: package
package: build ## build the deb and the rpm into build/
	VERSION='$(VERSION)' BIN=build .packaging/build.sh

.PHONY: demo
demo: deps package ## lose a node in a real cluster and watch; ROUNDS=3
	CGO_ENABLED=0 go build -trimpath -o build/demo-run ./test/demo
	build/demo-run --rounds $(ROUNDS) --out build/demo

.PHONY: bench
bench: deps package ## measure next to rsync and podman save; SCALE=small BENCH="id id" SEED=
	CGO_ENABLED=0 go build -trimpath -o build/bench-run ./test/bench
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o build/bench-node ./test/bench/onnode
	build/bench-run --scale '$(SCALE)' --only '$(BENCH)' $(if $(SEED),--seed $(SEED)) --out build/bench

.PHONY: test
test: deps unit package e2e ## every test

.PHONY: unit
unit: ## vet, and each package's own tests with the race detector: no cluster
	@echo "unit: vetting every package, with the tests that need the lab"
	go vet -tags=$(LAB_TAGS) ./...
	@echo "unit: each package's own tests with the race detector; some minutes"
	go run $(GOTESTSUM) --format pkgname -- -race -timeout 15m ./...

.PHONY: e2e
e2e: package ## tests on the lab's cluster, of the package that users install; E2E=./test/e2e
	@echo "e2e: the tests that need the lab, of $(E2E)"
	go run $(GOTESTSUM) --format standard-verbose -- -tags=$(LAB_TAGS) -p 1 -count=1 -timeout 40m $(E2E)

.PHONY: fuzz
fuzz: ## each fuzz test for FUZZTIME (10s)
	@echo "fuzz: every parser of foreign bytes, for $${FUZZTIME:-10s} each"
	@test/fuzz.sh $${FUZZTIME:-10s}

.PHONY: lint
lint: ## what gofumpt and golangci-lint have to say, also of the tests on the lab
	@echo "lint: files that gofumpt would change:"
	go run $(GOFUMPT) -l . | (! grep .)
	@echo "lint: golangci-lint, with .golangci.yml"
	go run $(LINT) run ./...

.PHONY: fmt
fmt: ## gofumpt everything
	@echo "fmt: gofumpt writes these files:"
	go run $(GOFUMPT) -l -w .

.PHONY: lab-up
lab-up: deps package ## two nodes with a cluster and understudy; NAME=lab
	CGO_ENABLED=0 go build -trimpath -o build/demo-run ./test/demo
	build/lab up --name $(NAME) --cluster --deb $$(ls -t build/understudy_*_amd64.deb | head -1)
	build/demo-run --set-up --name $(NAME)
	@echo "try: make shell NODE=n1, then: understudy status"

.PHONY: lab-down
lab-down: ## take a lab down; NAME=lab
	build/lab down --name $(NAME)

.PHONY: shell
shell: ## a shell on a node of the lab; NODE=n1 NAME=lab
	build/lab shell --name $(NAME) $(NODE)

.PHONY: clean
clean: ## remove what was built, and labs that a killed run left
	-[ ! -x build/lab ] || build/lab clean
	rm -rf build
