# The two commands that matter: `make demo` and `make test`. Both set up everything they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint pull format conformance faults eval-tiny train-tiny clean

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.user: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/it."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/it."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

pull: $(VENV)/.user  ## Fetch and assemble the bundled model (once; offline afterwards).
	@$(BIN)/mmagent pull tiny

demo: pull  ## Talk with Mia: pictures, memory, persona. Without a terminal a short conversation is played.
	@$(BIN)/mmagent demo

test: $(VENV)/.dev pull  ## Run every test that CI runs.
	$(BIN)/python -m pytest -q

lint: $(VENV)/.dev  ## ruff and mypy.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## Let ruff put the code in order.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

eval-tiny: $(VENV)/.dev pull  ## Measure the bundled model on held-out styles (half an hour on two cores).
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,train]'
	$(BIN)/python -m mmagent.finetune.bundled.evaluate

clean:  ## Remove the virtual environment and build products.
	rm -rf $(VENV) .build dist
