# What can be done here: make help

SHELL       := /bin/bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := help
.PHONY: build dist test unit lint fuzz torture bench demo engines s3servers promtool setup help

# The toolchain is the one that is installed; nothing fetches another behind your back.
export GOTOOLCHAIN := local
# ENGINES and OFFLOADER_ENGINES are read by the tests.
export ENGINES OFFLOADER_ENGINES

FUZZTIME     ?= 10s
TIMEOUT      ?= 30m
LINT_VERSION := v2.15.0
LINT         := bin/tools/golangci-lint-$(LINT_VERSION)
VERSION      := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

build: ## a static binary, bin/offloader
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/offloader ./cmd/offloader

dist: ## binaries and Debian packages for amd64 and arm64, with SHA256SUMS, in dist/ (ARCHS=arm64 narrows it)
	@scripts/dist

test: ## everything that must be green: lint, a short fuzz, all tests on all engines (ENGINES=valkey9.1 RUN=TestDigest narrow it)
ifdef RUN
test: unit
else
test: setup engines s3servers promtool $(LINT)
	@failed=; \
	  $(MAKE) --no-print-directory lint || failed="$$failed lint"; \
	  FUZZTIME=$(if $(filter file,$(origin FUZZTIME)),5000x,$(FUZZTIME)) RUN= scripts/fuzz || failed="$$failed fuzz"; \
	  FAILED_BEFORE="$$failed" scripts/test -timeout $(TIMEOUT)
endif

# The tests alone, those that match RUN.
unit: setup engines s3servers promtool
	@scripts/test -timeout $(TIMEOUT) $(if $(RUN),-run '$(RUN)')

lint: setup $(LINT) ## gofmt, go vet, golangci-lint
	@unformatted=$$(gofmt -l $(wildcard cmd internal test)); \
	  if [ -n "$$unformatted" ]; then echo "gofmt wants to change: $$unformatted" >&2; exit 1; fi
	go vet ./...
	$(LINT) run --allow-parallel-runners

# Pinned, and kept out of go.mod: its graph is far larger than ours.
$(LINT):
	@mkdir -p bin/tools
	GOBIN=$(CURDIR)/bin/tools go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@mv bin/tools/golangci-lint $@

fuzz: ## every Fuzz function for FUZZTIME (10s, or 5000x: so many inputs) each; RUN=FuzzWalk narrows it
	@FUZZTIME=$(FUZZTIME) RUN='$(RUN)' scripts/fuzz

torture: setup engines s3servers promtool ## the crash and cut tests with their full counts; takes hours
	@OFFLOADER_TORTURE=1 scripts/test -timeout 24h $(if $(RUN),-run '$(RUN)')

bench: engines s3servers ## measure against real engines (DIR=where SIZE=how much)
	go run ./test/bench $(if $(DIR),-dir '$(DIR)') $(if $(SIZE),-size '$(SIZE)')

demo: ## lose a dataset and get it back, in half a minute (ENGINE=valkey9.1 takes another engine)
	@scripts/setup demo
	@$(MAKE) --no-print-directory build
	@scripts/demo

engines: ## fetch redis 7.0, 8.0 and valkey 8.1, 9.1 for the tests; installs nothing
	@scripts/engines

s3servers: ## build MinIO and Versity S3 Gateway for the tests; installs nothing
	@scripts/s3servers

promtool: ## fetch promtool for the tests; installs nothing
	@scripts/promtool

setup: ## install what a bare Debian lacks for the above
	@scripts/setup

help: ## this
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
