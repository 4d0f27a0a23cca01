# Installed are the versions that were tested, .github/constraints.txt; PIP_ARGS= takes the newest.
# make train   install, then train the default job; ARGS="key=value …" are its overrides
# make test    install what tests need, then run them; ARGS="…" are pytest's
# make evidence  run what proves the figures of the README, in small
# make check   lint, formatting, types, direction between rooms, then make test
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?= --constraint .github/constraints.txt
BIN := $(VENV)/bin

.PHONY: train test evidence check clean

train: $(VENV)/.installed
	$(BIN)/python -m train $(ARGS)

# One process more than two cores: some tests wait, for ranks that hang and time that passes.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed-dev
	$(PYTEST) $(ARGS)

evidence: $(VENV)/.installed-dev
	$(PYTEST) scripts/evidence/tests $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(MAKE) test

clean:
	rm -rf $(VENV)

# The stamps are newer than what they stand for, so a second call installs nothing.
$(VENV)/.installed: pyproject.toml .github/constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml .github/constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[dev]"
	touch $(VENV)/.installed $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11: make … PYTHON=python3.12, say" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
