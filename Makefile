# One command for everything: GNU make, a POSIX shell, and a Python or uv. Nothing needs to be activated.
SHELL := /bin/sh
BIN := .venv/bin
SYNCED := .venv/holdfast-synced

.DEFAULT_GOAL := help
.PHONY: help up down status logs demo audit run test test-faults test-contract contracts chaos lint types check docs fmt clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

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

run: $(SYNCED) ## A service's own command on this installation, e.g. CMD="orders jobs dead"
	@$(BIN)/holdfast-local run $(CMD)

test: $(SYNCED) ## Run the tests, on real PostgreSQL and Valkey
	@$(BIN)/pytest

test-faults: $(SYNCED) ## Kill, pause, empty and cut off real processes; the oracle judges (6 minutes)
	@$(BIN)/pytest tests/failures

test-contract: $(SYNCED) ## Ask each service everything its OpenAPI document allows and more; EXAMPLES=200 for longer
	@CONTRACT_EXAMPLES=$(EXAMPLES) $(BIN)/pytest tests/contract

contracts: $(SYNCED) ## Accept what the code promises now: error codes, OpenAPI documents, events
	@$(BIN)/python tests/contract/promises.py

chaos: $(SYNCED) ## Rounds of random faults, then totals; SEED=1 ROUNDS=20, FIRST=7 starts with that round
	@$(BIN)/holdfast-local chaos $(if $(SEED),--seed $(SEED)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(FIRST),--first $(FIRST))

lint: $(SYNCED) types ## Format, lint, types, imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

types: $(SYNCED)
	@$(BIN)/mypy $(wildcard services/*/src infra/*/src)

check: lint test ## What has to pass before a commit: lint and tests

docs: $(SYNCED) ## Write the reference pages and .env.example again from the code
	@$(BIN)/python docs/generate.py

fmt: $(SYNCED) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix --exit-zero --quiet .

clean: ## Delete databases, secrets, logs and our own uv; packages stay in .venv
	@if $(BIN)/holdfast-local --help >/dev/null 2>&1; then $(BIN)/holdfast-local clean; fi
	@rm -rf .holdfast $(SYNCED)

# Done again only when the lock file or a package's description is newer.
$(SYNCED): uv.lock pyproject.toml $(wildcard services/*/pyproject.toml infra/*/pyproject.toml)
	@sh infra/local/set-up.sh
	@touch $@
