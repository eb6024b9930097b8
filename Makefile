# make demo   a real job on real files, with processes killed in the middle
# make test   everything, on SQLite and PostgreSQL
# make check  what CI runs: lint, types, import contracts, tests
# Paths are relative and tools run as modules, so any folder name will do.
.PHONY: demo test check lint types contracts bench setup clean

FOLDER ?=

demo:
	@sh tools/setup.sh run
	@.venv/bin/python -m examples.pysurvey.demo $(if $(FOLDER),"$(FOLDER)")

test:
	@sh tools/setup.sh dev
	.venv/bin/python -m pytest -q -n 2 --dist worksteal

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
