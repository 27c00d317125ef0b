# `make up` runs Tollbook, `make test` tests it; both need only Python >= 3.11 and a package index.
# PYTHON, VENV, PORT, HOST and DATA_DIR can be given on the command line or in the environment.

PYTHON ?= python3
VENV ?= .venv
UV ?= uv
BENCH_OUT ?= .data/bench.json
BIN := $(VENV)/bin
MANAGE := $(BIN)/python manage.py

# An environment is up to date when it bears the sum of the lock file it was installed from.
RUNTIME := $(VENV)/.installed-$(shell cksum < constraints.txt | tr ' ' -)
DEVELOPMENT := $(VENV)/.installed-dev-$(shell cksum < constraints-dev.txt | tr ' ' -)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes --no-deps

# Checks of the source reach no database, whatever the caller's environment names.
OFFLINE := env -u DATABASE_URL -u CELERY_BROKER_URL DATA_DIR=$(CURDIR)/.data/none PYTHONWARNINGS=ignore::RuntimeWarning
# As a production has it; nothing is connected to.
PRODUCTION := $(OFFLINE) DATABASE_URL=postgresql://nobody@127.0.0.1:1/nothing CELERY_BROKER_URL=redis://127.0.0.1:1/0 \
	SECRET_KEY=only-for-this-check-0123456789-abcdefghijklmnopqrstuvwxyz ALLOWED_HOSTS=tollbook.example HTTPS=1 TRUSTED_PROXIES=1
PYTEST := $(BIN)/python -m pytest

.PHONY: up test check static grouped bench soak demo lock openapi guards
.SILENT:
.DEFAULT_GOAL := up

up: $(RUNTIME)
	exec env TOLLBOOK_UNDER_MAKE=1 $(MANAGE) up

test: $(DEVELOPMENT)
	$(PYTEST) -m "$(if $(ID),$(ID) and )not soak" $(ARGS)

check: static grouped
	$(PYTEST) -m "not soak" $(ARGS)

# The books once more with every batch taken apart by organization, as a sharded database needs it; without what is
# about one organization at a time: payments and the processor, documents, pages, calls and their limits; and without
# what reads the books and locks nothing: invariants (those that also charge stay), estimates, explanations, margins.
GROUPED := tests/billing tests/gateway tests/metering/test_usage.py tests/metering/test_partitions.py tests/journeys/test_concurrency.py
ALONE := documents/* processor/* test_*admin test_inbox test_refunds test_disputes test_doubts test_settlement test_payment* \
	test_invoice_* test_notices test_dunning test_many test_clearing test_provider_bills test_calls test_chat test_channels \
	test_litellm test_native test_responses test_surfaces test_limits test_slots test_replays test_upstream test_routing \
	$(addprefix invariants/test_,grants holds invoices ledger payments queues rows server usage) \
	test_estimate_views test_quotes test_explain test_explain_views test_margins test_metrics
grouped: $(DEVELOPMENT)
	TEST_GROUPING=organization $(PYTEST) -m "not soak" $(GROUPED) $(foreach name,$(ALONE),--ignore-glob='*/$(name).py')

static: $(DEVELOPMENT)
	$(BIN)/ruff format --check . || { echo "format: run $(BIN)/ruff format ."; exit 1; }
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy .
	$(BIN)/lint-imports --no-logo
	$(OFFLINE) $(MANAGE) makemigrations --check --dry-run
	$(PRODUCTION) $(MANAGE) check --deploy --fail-level WARNING
	$(OFFLINE) $(MANAGE) spectacular --format openapi-json --fail-on-warn --validate --file $(VENV)/openapi.json
	cmp docs/openapi.json $(VENV)/openapi.json || { echo "docs/openapi.json is out of date: run make openapi"; exit 1; }

bench: $(DEVELOPMENT)
	mkdir -p $(dir $(BENCH_OUT))
	BENCH_OUT=$(BENCH_OUT) $(BIN)/python -m tests.benchmarks $(ARGS)

soak: $(DEVELOPMENT)
	$(PYTEST) -m soak $(ARGS)

demo: $(RUNTIME)
	$(MANAGE) demo $(ARGS)

openapi: $(DEVELOPMENT)
	$(OFFLINE) $(MANAGE) spectacular --format openapi-json --fail-on-warn --validate --file docs/openapi.json

# What verify's V34 compares a database with: run it when a migration makes, changes or drops a guard.
guards: $(DEVELOPMENT)
	WRITE_GUARDS=1 $(PYTEST) tests/billing/invariants/test_server.py -k listed

# Keeps what is pinned; `make lock ARGS=--upgrade` takes newer versions.
LOCK := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header
lock:
	command -v $(UV) > /dev/null || { echo "make lock needs uv; name it with UV=/path/to/uv"; exit 1; }
	$(UV) $(LOCK) $(ARGS) requirements.in --output-file constraints.txt
	$(UV) $(LOCK) $(ARGS) requirements-dev.in --constraints constraints.txt --output-file constraints-dev.txt

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Tollbook needs Python 3.11 or later; $(PYTHON) is not. Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# An interrupted `-m venv` leaves an environment without pip.
PIP := $(BIN)/python -c 'import pip' 2> /dev/null || $(BIN)/python -m ensurepip

$(RUNTIME): | $(BIN)/python
	echo "Installing the locked requirements into $(VENV) ..."
	$(PIP)
	$(INSTALL) -r constraints.txt
	touch $@

$(DEVELOPMENT): | $(BIN)/python
	echo "Installing the locked development requirements into $(VENV) ..."
	$(PIP)
	$(INSTALL) -r constraints-dev.txt
	touch $@
