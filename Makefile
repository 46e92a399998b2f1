# The targets call the programs in scripts/, which can be run by themselves as well.

.DEFAULT_GOAL := help
.PHONY: help setup tools build run stop examples test check bench chaos soak fmt clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## set everything up, start funcd in the background and run an example (the first time: a quarter of an hour)
	@scripts/run

stop: ## end what `make run` started
	@scripts/stop

test: ## run all tests: the unit tests, then those on a real Nomad, Consul and Docker
	@scripts/test

check: ## run what needs no test: gofmt, vet, staticcheck, imports, tidy, shell scripts
	@scripts/check

build: ## build bin/funcd and bin/funcd-runner
	@scripts/build

examples: ## build the Docker images of the example functions
	@scripts/examples

bench: ## measure funcd against plain Nomad dispatches, half an hour; ROWS=cold,warm for some of it
	@scripts/bench $(if $(ROWS),-rows $(ROWS))

chaos: ## kill every part while calls run, 50 times each and more, and audit that none is lost (an hour)
	@scripts/chaos

soak: ## call functions for half an hour and see that funcd's memory and goroutines stay flat
	@scripts/chaos -soak 30m

setup: ## install or build what is missing of Docker, curl, Nomad and Consul
	@scripts/setup

tools: setup ## the same as setup

fmt: ## format the Go code
	@gofmt -l -w .

clean: stop ## stop, and remove what was built and stored; Nomad and Consul in .bin stay
	rm -rf bin funcd-data
