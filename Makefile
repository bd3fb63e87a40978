# `make run` and `make test` are all a newcomer needs. Required: Python 3.11 or newer, make and git.
PYTHON ?= python3
PORT ?= 8080
URL ?= http://127.0.0.1:$(PORT)
LEDGER_TOKEN ?= development-only-token
STEPS ?= 12500
SECONDS ?= 120
FORMAT ?= csv
# pytest-xdist processes, each with its own database; without DATABASE_URL also with its own PostgreSQL. Many tests wait for
# a deadline: with 2 processes, two cores were idle half of the time.
WORKERS ?= 4
BANK = dev/data/bank-1993.csv.gz
python = .venv/bin/python
pytest = $(python) -m pytest --numprocesses $(WORKERS) --dist worksteal

.PHONY: help run cluster test slow model check lint types migrate seal audit export smoke bank bench soak faults clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

run: .venv/ready .env ## start the service on port 8080 with its own PostgreSQL; Ctrl-C stops both
	@$(python) -m dev.run

cluster: .venv/ready .env ## start the service on three PostgreSQL with automatic failover; needs etcd
	@$(python) -m dev.cluster

test: .venv/ready ## run the tests, except those marked slow, on a real PostgreSQL
	@$(pytest) -m 'not slow and not faults'

slow: .venv/ready ## run the tests marked slow: every PostgreSQL major on this machine, and long runs
	@$(pytest) -m 'slow and not faults'

model: .venv/ready ## compare random requests with a model of the ledger: make model STEPS=…
	@MODEL_STEPS='$(STEPS)' $(python) -m pytest -q -s tests/ledger/test_model.py -k model_does

check: lint types test slow ## what CI runs; make check BASE=COMMIT also compares sql/migrations.sum with that commit

lint: .venv/ready
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@sh dev/lint_sql.sh "$(CURDIR)/.venv/bin/squawk"
	@$(python) -m service.migrate check $(if $(BASE),--base $(BASE))

types: .venv/ready
	@$(python) -m mypy

seal: .venv/ready ## append the checksums of new files in sql/, using a temporary PostgreSQL
	@env -u DATABASE_URL $(python) -m dev.postgres -- $(python) -m service.migrate seal

migrate: .venv/ready .env ## apply pending migrations to the database of `make run`, or of DATABASE_URL
	@$(python) -m dev.run service.migrate up

# 141: the reader of the pipe, such as head, has closed it.
export: .venv/ready .env ## write the journal of `make run`: make export FORMAT=csv|hledger|beancount
	@$(python) -m dev.run service.export --format '$(FORMAT)' || [ $$? -eq 141 ]

audit: .venv/ready .env ## check the integrity of the ledger of `make run`, or of DATABASE_URL
	@$(python) -m dev.run service.audit

smoke: ## check a running service over HTTP: make smoke URL=… LEDGER_TOKEN=…
	@LEDGER_TOKEN='$(LEDGER_TOKEN)' sh tests/smoke.sh '$(URL)'

bank: .venv/ready ## post a real bank's transactions of 1993 to a running service and compare every balance
	@LEDGER_TOKEN='$(LEDGER_TOKEN)' $(python) -m dev.bank '$(URL)' $(BANK)

bench: .venv/ready ## measure on this machine, for docs/performance.md: make bench [ONLY=growth,…] [ROUNDS=3] [SECONDS=4]
	@$(python) -m bench $(if $(ONLY),--only '$(ONLY)') $(if $(ROUNDS),--rounds '$(ROUNDS)') \
	    $(if $(filter-out file,$(origin SECONDS)),--seconds '$(SECONDS)')

soak: .venv/ready ## 64 callers for SECONDS on a temporary service, or on URL=…; then audit, and read each acknowledged id
	@LEDGER_TOKEN='$(LEDGER_TOKEN)' SECONDS='$(SECONDS)' URL='$(if $(filter-out file,$(origin URL)),$(URL))' \
	    env -u DATABASE_URL $(python) -m tests.support.soak

faults: .venv/ready ## inject faults into real processes, check every response: make faults [SECONDS=600] [SEED=…] [ONLY=network-cut,…]
	@env -u DATABASE_URL $(python) -m tests.faults.hammer $(if $(ONLY),--only '$(ONLY)',--full) $(if $(SEED),--seed '$(SEED)') \
	    $(if $(filter-out file,$(origin SECONDS)),--seconds '$(SECONDS)'); code=$$?; \
	    $(if $(ONLY),:,$(pytest) -m faults) && exit $$code

clean: ## remove the virtual environment, caches and the data of `make run`
	@if [ -L .data/postgres ]; then rm -rf "$$(readlink .data/postgres)"; fi
	rm -rf .venv .data .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Every package is pinned, including dependencies of dependencies, so pip resolves nothing.
.venv/ready: requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv .venv
	@$(python) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt -r requirements-dev.txt
	@touch $@

.env:
	@cp .env.example .env
