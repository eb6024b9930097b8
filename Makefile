# make demo   a real job on real files, with processes killed in the middle
# make test   the everyday tests, on SQLite and PostgreSQL; with CI=1 the long ones too
# make slow     every test, also those that take long
# make reloads  a hundred reloads in a row under a stream of tasks, on both databases
# make systemd  the tests inside a real systemd: in the program that SHIFTBOSS_SYSTEMD_SANDBOX names, or as root in this machine's own
# make model    every interleaving of two workers, 2,000 runs of the rule machine on each database, and the mutants of the real code
# make chaos    10,000 faults over a million tasks on each database; goes on where it was interrupted, results in .chaos/
# make bench        rate, latency, cost and memory on both databases, and other queues beside it; some 25 minutes on a quiet machine
# make bench-growth the same with a large store, many queues, several workers, and over time; about an hour
# make check  what CI runs: lint, types, import contracts, tests
# Paths are relative and tools run as modules, so any folder name will do.
.PHONY: demo test slow reloads systemd model chaos check lint types contracts bench bench-growth setup clean

FOLDER ?=
# How many tests at a time. They wait more than they work, so two cores have room for three; the long ones of CI measure times.
JOBS ?= $(if $(CI),2,3)
# make chaos: how often the answer of each call that writes is cut off, at each of six places; 8 are more than a thousand cuts
CUTS ?= 8

demo:
	@sh tools/setup.sh run
	@.venv/bin/python -m examples.pysurvey.demo $(if $(FOLDER),"$(FOLDER)")

test:
	@sh tools/setup.sh dev
	.venv/bin/python -m pytest -q -n $(JOBS) --dist worksteal

slow:
	@sh tools/setup.sh dev
	SHIFTBOSS_SLOW=1 .venv/bin/python -m pytest -q -n 2 --dist worksteal

reloads:
	@sh tools/setup.sh dev
	SHIFTBOSS_RELOADS=100 .venv/bin/python -m pytest -q -s tests/acceptance/test_reloads.py

systemd:
	@sh tools/setup.sh dev
	.venv/bin/python -m pytest -q -rs $(if $(SHIFTBOSS_SYSTEMD_SANDBOX),tests/acceptance/test_in_systemd.py,tests/systemd)

model:
	@sh tools/setup.sh dev
	SHIFTBOSS_MODEL=long .venv/bin/python -m pytest -q -s -n 2 tests/model/test_rules.py tests/model/test_protocol_model.py
	.venv/bin/python -m tests.model.mutants

chaos:
	@sh tools/setup.sh dev
	mkdir -p .chaos
	.venv/bin/python -m tests.chaos.run --database sqlite --faults 10000 --tasks 1000000 --resume .chaos/sqlite.json --report .chaos/sqlite.md
	.venv/bin/python -m tests.chaos.run --database postgres --faults 10000 --tasks 1000000 --resume .chaos/postgres.json --report .chaos/postgres.md
	.venv/bin/python -m tests.chaos.run --database postgres --outage 300 --tasks 5000 --report .chaos/outage.md
	.venv/bin/python -m tests.chaos.run --database sqlite --recovery --report .chaos/sqlite-recovery.md
	.venv/bin/python -m tests.chaos.run --database postgres --recovery --report .chaos/postgres-recovery.md
	UNKNOWN_OUTCOMES=$(CUTS) .venv/bin/python -m pytest -q tests/chaos/test_unknown_outcomes.py
	.venv/bin/python -m tests.chaos.power --cuts 10000
	.venv/bin/python -m tests.chaos.mutants

lint:
	@sh tools/setup.sh dev
	.venv/bin/python -m ruff check
	.venv/bin/python -m ruff format --check

types:
	@sh tools/setup.sh dev
	.venv/bin/python -m mypy
	.venv/bin/python -m mypy examples bench

contracts:
	@sh tools/setup.sh dev
	.venv/bin/lint-imports

check: lint types contracts test

bench:
	@sh tools/setup.sh dev
	.venv/bin/python -m bench

bench-growth:
	@sh tools/setup.sh dev
	.venv/bin/python -m bench.growth

setup:
	@sh tools/setup.sh dev

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
