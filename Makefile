# What a newcomer needs: `make run` and `make test`. Python 3.11 or newer, make and git are all that must be there.
PYTHON ?= python3
PORT ?= 8080
URL ?= http://127.0.0.1:$(PORT)
LEDGER_TOKEN ?= development-only-token
STEPS ?= 12500
SECONDS ?= 120
FORMAT ?= csv
BANK = bench/data/bank-1993.csv.gz
python = .venv/bin/python

.PHONY: help run test model check lint types migrate seal audit export smoke bank figures soak clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

run: .venv/ready .env ## the service on port 8080 with a PostgreSQL of its own; Ctrl-C stops both
	@$(python) -m tests.run

test: .venv/ready ## all tests, on a real PostgreSQL
	@$(python) -m pytest

model: .venv/ready ## random requests against a model of the ledger: make model STEPS=…
	@MODEL_STEPS='$(STEPS)' $(python) -m pytest -q -s tests/test_model.py -k model_does

check: lint types test ## what CI runs: lint, types, tests; make check BASE=COMMIT also compares the seal with its past

lint: .venv/ready
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@sh tests/lint_sql.sh "$(CURDIR)/.venv/bin/squawk"
	@$(python) -m service.migrate check $(if $(BASE),--base $(BASE))

types: .venv/ready
	@$(python) -m mypy

seal: .venv/ready ## seal the new files of sql/, on a throw-away PostgreSQL
	@env -u DATABASE_URL $(python) -m tests.postgres -- $(python) -m service.migrate seal

migrate: .venv/ready .env ## bring the database of `make run`, or of DATABASE_URL, to the newest schema
	@$(python) -m tests.run service.migrate up

# 141: the reader of the pipe, such as head, has seen enough.
export: .venv/ready .env ## write the journal of `make run`: make export FORMAT=csv|hledger|beancount
	@$(python) -m tests.run service.export --format '$(FORMAT)' || [ $$? -eq 141 ]

audit: .venv/ready .env ## prove the books of `make run`, or of DATABASE_URL
	@$(python) -m tests.run service.audit

smoke: ## check a running service from outside: make smoke URL=… LEDGER_TOKEN=…
	@LEDGER_TOKEN='$(LEDGER_TOKEN)' sh tests/smoke.sh '$(URL)'

bank: .venv/ready ## post a real bank's year to a running service and compare every balance
	@LEDGER_TOKEN='$(LEDGER_TOKEN)' $(python) -m bench.bank '$(URL)' $(BANK)

figures: .venv/ready ## measure posting on this machine, for docs/figures.md
	@dir=$$(mktemp -d) && trap 'rm -rf "$$(readlink -f "$$dir/data")" "$$dir"' EXIT && \
	    env -u DATABASE_URL $(python) -m tests.postgres --data "$$dir/data" -- $(python) -m bench.posting

soak: .venv/ready ## 64 callers of everything for SECONDS, on a throw-away service or URL=…; then look for any harm
	@LEDGER_TOKEN='$(LEDGER_TOKEN)' SECONDS='$(SECONDS)' URL='$(if $(filter-out file,$(origin URL)),$(URL))' \
	    env -u DATABASE_URL $(python) -m bench.soak

clean: ## remove the virtual environment, caches and the data of `make run`
	@if [ -L .data/postgres ]; then rm -rf "$$(readlink .data/postgres)"; fi
	rm -rf .venv .data .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Every package is pinned, the packages of packages too, so nothing is left for pip to resolve.
.venv/ready: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv
	@$(python) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt -r requirements-dev.txt
	@touch $@

.env:
	@cp .env.example .env
