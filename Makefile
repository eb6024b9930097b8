# make demo   a real job on real files, with processes killed in the middle
# make test   everything, on SQLite and PostgreSQL
# make reloads  a hundred reloads in a row under a stream of tasks, on both databases
# make systemd  the tests inside a real systemd: in the program that SHIFTBOSS_SYSTEMD_SANDBOX names, or as root in this machine's own
# make check  what CI runs: lint, types, import contracts, tests
# Paths are relative and tools run as modules, so any folder name will do.
.PHONY: demo test reloads systemd check lint types contracts bench setup clean

FOLDER ?=

demo:
	@sh tools/setup.sh run
	@.venv/bin/python -m examples.pysurvey.demo $(if $(FOLDER),"$(FOLDER)")

test:
	@sh tools/setup.sh dev
	.venv/bin/python -m pytest -q -n 2 --dist worksteal

reloads:
	@sh tools/setup.sh dev
	SHIFTBOSS_RELOADS=100 .venv/bin/python -m pytest -q -s tests/acceptance/test_reloads.py

systemd:
	@sh tools/setup.sh dev
	.venv/bin/python -m pytest -q -rs $(if $(SHIFTBOSS_SYSTEMD_SANDBOX),tests/acceptance/test_in_systemd.py,tests/systemd)

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

setup:
	@sh tools/setup.sh dev

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
