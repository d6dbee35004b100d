# One command for everything: GNU make, a POSIX shell, and a Python or uv. Nothing needs to be activated.
SHELL := /bin/sh
BIN := .venv/bin
SYNCED := .venv/holdfast-synced
TOOLS := .venv/holdfast-tools-synced

.DEFAULT_GOAL := help
.PHONY: help up down status logs demo audit explain run load lab bench-http bench-start bench-rollout bench-jobs bench-calls bench-order test model test-observability test-system test-faults test-crash test-contract contracts chaos check-chart images compose-up compose-smoke compose-down test-images dev lint types check expired-flags docs sentences fmt clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-18s %s\n' "$$name" "$$text"; done

up: $(SYNCED) ## Start the platform and stay; Ctrl-C stops it
	@$(BIN)/holdfast-local up

down: $(SYNCED) ## Stop the platform from another shell
	@$(BIN)/holdfast-local down

status: $(SYNCED) ## Show what runs, where, its health and memory
	@$(BIN)/holdfast-local status

logs: $(SYNCED) ## Show the end of the logs; NAME=orders-api for one, FOLLOW=1 to stay
	@$(BIN)/holdfast-local logs $(NAME) $(if $(FOLLOW),--follow)

demo: $(SYNCED) ## Start everything, place orders, kill a worker, ask the oracle, stop
	@$(BIN)/holdfast-local demo

audit: $(SYNCED) ## Ask the oracle about the running platform
	@$(BIN)/holdfast-local audit

explain: $(SYNCED) ## One order's story over all services: ORDER=its id; JSON=1
	@test -n "$(ORDER)" || { echo "Which order? make explain ORDER=<the id in the answer to POST /v1/orders>" >&2; exit 2; }
	@$(BIN)/holdfast-local explain order $(ORDER) $(if $(JSON),--json)

run: $(SYNCED) ## A service's own command on this installation, e.g. CMD="orders jobs dead"
	@$(BIN)/holdfast-local run $(CMD)

load: $(TOOLS) ## Locust on the platform, then the oracle; SCENARIO=burst, SECONDS=20, SEED=2, RATE=0.5
	@$(BIN)/holdfast-local load $(or $(SCENARIO),steady) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED)) $(if $(RATE),--rate $(RATE))

bench-jobs: $(TOOLS) ## The job queue beside four others (2 to 5 minutes); LEFT_OPEN=600 leaves a transaction open
	@PATH="$$PWD/.holdfast/tools/bin:$$PATH" UV_PROJECT_ENVIRONMENT=.venv uv sync --locked --quiet --project loadtest/benchmarks/jobs
	@$(BIN)/python loadtest/benchmarks/jobs/run.py $(if $(LEFT_OPEN),--left-open $(LEFT_OPEN))

bench-calls: $(TOOLS) ## A call through everything, a webhook received and one sent; gated (2 minutes)
	@PATH="$$PWD/.holdfast/tools/bin:$$PATH" UV_PROJECT_ENVIRONMENT=.venv uv sync --locked --quiet --project loadtest/benchmarks/calls
	@$(BIN)/python loadtest/benchmarks/calls

bench-order: $(TOOLS) ## A whole order, POST to last mail, beside the same saga written plainly; RATE=20, CHART=a.svg (4 minutes)
	@PATH="$$PWD/.holdfast/tools/bin:$$PATH" UV_PROJECT_ENVIRONMENT=.venv uv sync --locked --quiet --project loadtest/benchmarks/order
	@$(BIN)/python loadtest/benchmarks/order $(if $(RATE),--rate $(RATE)) $(if $(CHART),--chart $(CHART))

bench-http: $(TOOLS) ## Orders against a bare application, in CPU per request; gated (3 minutes)
	@$(BIN)/python loadtest/benchmarks/http

bench-start: $(TOOLS) ## Processor time of each process until it is ready; gated (1 minute)
	@$(BIN)/python loadtest/benchmarks/start

bench-rollout: $(TOOLS) ## What clients wait for while all processes are replaced at 10 orders a second; gated (1 minute)
	@$(BIN)/python loadtest/benchmarks/rollout

lab: $(TOOLS) ## The lab: six experiments, each with its pattern and without it (5 minutes); lab-retries runs one, PUBLISH=1 keeps it
	@cd loadtest && ../$(BIN)/python -m experiments $(if $(PUBLISH),--publish)

lab-%: $(TOOLS)
	@cd loadtest && ../$(BIN)/python -m experiments $* $(if $(PUBLISH),--publish)

# Compiled files are kept, for the tests start 200 processes; Helm's engine, in Go, collects its garbage less often.
# Three at once keep two cores busy: a third of the time a test waits for a process, a lock or a clock of the server.
test: $(TOOLS) ## Run the tests, on real PostgreSQL and Valkey
	@PYTHONDONTWRITEBYTECODE= GOGC=400 $(BIN)/pytest --numprocesses 3 --dist loadfile

model: ## Check the protocol of an order over all interleavings, and that each seeded mistake is caught (1 minute)
	@python3 docs/reference/protocol_model.py

test-system: $(TOOLS) ## Start the whole platform: demo, load, traces, logs and secrets as they are there (4 minutes)
	@$(BIN)/pytest tests/system

test-observability: $(TOOLS) ## Alerts and every PromQL expression on a real Prometheus; docs/reference/metrics.md (2 minutes)
	@for program in promtool prometheus amtool; do command -v $$program >/dev/null || { \
		echo "$$program is not here: apt-get install prometheus prometheus-alertmanager" >&2; exit 1; }; done
	@$(BIN)/pytest tests/observability

test-faults: $(TOOLS) ## Kill, pause, empty and cut off real processes; the oracle judges (7 minutes)
	@$(BIN)/pytest tests/failures

test-crash: $(TOOLS) ## Kill each process at each step of an order's life; ROUNDS=1, SEED=1, POINT="send_mail" (5 minutes)
	@CRASH_ROUNDS=$(ROUNDS) CRASH_SEED=$(SEED) $(BIN)/pytest tests/crash --numprocesses 2 $(if $(POINT),-k "$(POINT)")

test-contract: $(TOOLS) ## Ask each service everything its OpenAPI document allows and more; EXAMPLES=200 for longer
	@CONTRACT_EXAMPLES=$(EXAMPLES) $(BIN)/pytest tests/contract

contracts: $(TOOLS) ## Accept what the code promises now: error codes, OpenAPI documents, events
	@$(BIN)/python tests/contract/promises.py

chaos: $(SYNCED) ## Rounds of random faults, then totals; SEED=1 ROUNDS=20, FIRST=7 starts with that round
	@$(BIN)/holdfast-local chaos $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(FIRST),--first $(FIRST))

IMAGE_SERVICES = $(filter-out chassis,$(notdir $(patsubst %/pyproject.toml,%,$(wildcard services/*/pyproject.toml))))
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BUILD = docker build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD)
COMPOSE = docker compose -f infra/compose.yaml

check-chart: $(TOOLS) ## Checkov on the chart with each values file; what it finds is reasoned in charts/checkov.yaml
	@PATH="$$PWD/.holdfast/tools/bin:$$PATH" UV_PROJECT_ENVIRONMENT="$$PWD/.holdfast/checkov" uv sync --locked --quiet --project infra/checkov
	@$(BIN)/python infra/checkov/check.py

images: ## Build the container images: one per service, and one of tools
	@set -e; for service in $(IMAGE_SERVICES); do \
	    $(BUILD) -f services/Dockerfile --build-arg SERVICE=$$service -t holdfast/$$service:$(VERSION) .; done
	@$(BUILD) -f infra/Dockerfile -t holdfast/tools:$(VERSION) .

compose-up: $(SYNCED) images ## Start the platform in containers; returns when all are healthy; PROFILE=observability
	@test -d .holdfast/compose || ! docker volume inspect $${COMPOSE_PROJECT_NAME:-holdfast}_postgres >/dev/null 2>&1 || \
	    { echo "The containers' databases know passwords that are gone: make compose-down DATA=delete, then again." >&2; exit 1; }
	@$(BIN)/python -m holdfast_local.compose_secrets
	@chmod a+r infra/compose/* charts/holdfast/files/*  # a strict umask would hide them from the containers' accounts
	@chmod -R a+rX charts/observability/files
	@$(if $(filter observability,$(PROFILE)),HOLDFAST_TELEMETRY__OTLP_ENDPOINT=http://collector:4318) \
	    $(COMPOSE) $(if $(PROFILE),--profile $(PROFILE)) up --detach --wait --wait-timeout 300

compose-smoke: ## Place orders in the containers' platform and ask the oracle; ORDERS=3
	@$(COMPOSE) run --rm --no-deps customer
	@$(COMPOSE) run --rm --no-deps oracle

compose-down: ## Stop the containers; what they keep stays, unless DATA=delete
	@$(COMPOSE) --profile smoke --profile observability down $(if $(filter delete,$(DATA)),--volumes)

test-images: $(TOOLS) ## Look at the built images: size, accounts, contents, start, rebuild (needs Docker, minutes)
	@$(BIN)/pytest tests/images

# Not from the environment: no cluster is meant by accident.
CONTEXT = kind-holdfast
PROFILE =
dev: ## Run on a cluster and follow changes, with Skaffold; PROFILE=observability, CONTEXT=kind-holdfast
	@for program in skaffold helm kubectl docker; do \
		command -v $$program >/dev/null || { echo "make dev needs $$program: docs/tutorial/skaffold.md" >&2; exit 1; }; done
	@kubectl --context "$(CONTEXT)" version --request-timeout=5s >/dev/null 2>&1 || { \
		echo "No cluster answers in the context $(CONTEXT). One of your own: kind create cluster --config infra/kind.yaml" >&2; exit 1; }
	@skaffold dev --kube-context "$(CONTEXT)" $(if $(PROFILE),--profile "$(PROFILE)")

lint: $(TOOLS) types ## Format, lint, types, imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

types: $(TOOLS)
	@$(BIN)/mypy $(wildcard services/*/src infra/*/src) loadtest/experiments

check: lint test ## What has to pass before a commit: lint and tests

expired-flags: $(TOOLS) ## Fail if a feature flag has outlived its date; TODAY=2027-12-01
	@$(BIN)/python docs/expired_flags.py $(or $(TODAY),$(shell date -u +%F))

docs: $(TOOLS) ## Write the reference pages, .env.example and the dashboards again from the code
	@$(BIN)/python docs/generate.py
	@$(BIN)/python infra/dashboards/dashboards.py

sentences: $(SYNCED) ## Draw 100 sentences from docstrings and comments, to be read by a stranger; SEED=7, COUNT=20
	@$(BIN)/python docs/sentences.py $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT))

fmt: $(TOOLS) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --exit-zero --quiet .

clean: ## Delete databases, secrets, logs and our own uv; packages stay in .venv
	@if $(BIN)/holdfast-local --help >/dev/null 2>&1; then $(BIN)/holdfast-local clean; fi
	@rm -rf .holdfast $(SYNCED) $(TOOLS)

# Done again only when the lock file or a package's description is newer. What runs takes 150 MB, the tools 600 more.
LOCKED := uv.lock pyproject.toml $(wildcard services/*/pyproject.toml infra/*/pyproject.toml loadtest/pyproject.toml)

$(SYNCED): $(LOCKED)
	@sh infra/local/set-up.sh
	@touch $@

$(TOOLS): $(LOCKED)
	@sh infra/local/set-up.sh tools
	@touch $@ $(SYNCED)
