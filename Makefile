# make demo   the packaged data and model: full against diet     make test   lint, types, contracts, tests
# make index  what is declared beside the code, collected        make house  the house in figures
# make soak   30 runs killed and resumed (minutes)
# make bench  every figure of docs/benchmarks.md (hours)         make docs   the site, built strictly
# make fuzz   broken input for every reader (FUZZ_S=600: longer)  make audit  unsafe sources and packages
PYTHON ?= python3
BIN := .venv/bin
INDEX := https://pypi.org/pypi/pip/json
# hundreds of processes import the packages: the first one keeps what it has compiled
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types unit house index examples examples-in-short readme docs fuzz audit soak bench bench-auto \
  bench-methods installed clean

demo: .venv/demo-installed
	$(BIN)/datadiet demo

# The tests take both cores but wait now and then; what takes one core fills that.
test: .venv/dev-installed
	+$(MAKE) --no-print-directory --jobs 2 unit lint types

lint: .venv/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m benchmarks.house --check

# the house in figures: files, layers, circles, walks, names, start-up times
house: .venv/dev-installed
	$(BIN)/python -m benchmarks.house

# what is declared beside the code, collected: registry.json and the generated parts of the docs
index: .venv/dev-installed
	$(BIN)/python -m datadiet.registry
	$(BIN)/python -m benchmarks.documents
	$(BIN)/python -m benchmarks.house --write

types: .venv/dev-installed
	$(BIN)/mypy

unit: .venv/dev-installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

# every script and notebook of examples/; a cell that fails fails its notebook, which stays as it is
examples: .venv/dev-installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/commands.py examples

# of the packaged model only two layers: what CI takes
examples-in-short: .venv/dev-installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/commands.py examples-in-short

# every command of the README and of the pages on corpora, as it stands there
readme: .venv/dev-installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/commands.py readme corpora

# 30 SIGKILLs at seeded moments; each run is resumed and compared with one that was left alone
soak: .venv/dev-installed
	$(BIN)/python -m benchmarks.soak $(if $(KILLS),--kills $(KILLS))
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]'
	$(BIN)/python -m pytest -m soak

docs: .venv/dev-installed
	$(BIN)/mkdocs build --strict --site-dir build/site

# atheris has wheels for Linux on x86-64; elsewhere `make unit` still runs the seeded part
fuzz: .venv/dev-installed
	$(BIN)/python -c 'import atheris' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --constraint constraints.txt atheris
	$(BIN)/python tests/fuzzing.py --seconds $(or $(FUZZ_S),60) --seed $(or $(FUZZ_SEED),0)

# in an environment of its own; without a network the packages are not audited, and a line says so
audit: .venv/dev-installed
	$(BIN)/python -m pytest tests/root/test_safety.py
	@if $(BIN)/python -c 'import urllib.request as web; web.urlopen("$(INDEX)", timeout=10)' 2>/dev/null; then \
	  $(PYTHON) -m venv build/audit && build/audit/bin/pip install --quiet --constraint constraints.txt pip-audit && \
	  build/audit/bin/pip-audit --skip-editable --path $(BIN)/../lib/python3*/site-packages; \
	else echo '$(INDEX) cannot be reached: the installed packages were not audited'; fi

bench-methods: .venv/dev-installed
	$(BIN)/python -m benchmarks.methods --timed
	$(BIN)/python -m benchmarks.methods --jobs 2 --data-root $(or $(DATA),data)
	$(BIN)/python -m benchmarks.tables

bench-auto: .venv/dev-installed
	$(BIN)/python -m benchmarks.auto --data-root $(or $(DATA),data)
	$(BIN)/python -m benchmarks.tables

bench: .venv/dev-installed
	$(BIN)/python -m benchmarks.all

installed: .venv/dev-installed

# One virtual environment; each stamp is renewed when what it was installed from changes.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo-installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch --editable '.[demo]'
	touch $@

.venv/dev-installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch --editable '.[dev]'
	touch $@ .venv/demo-installed

clean:
	rm -rf .venv build
