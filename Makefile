# One command each; every target sets up what it needs.
#   make demo           hear, align, read: the main job on the packaged organism
#   make test           the tests
#   make lint           ruff and mypy
#   make docs           the documentation site, strictly
#   make notebooks      execute every notebook and check its closing claim
#   make browser-test   the pages in headless Chromium (installed from Debian's packages if it is missing)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1

.PHONY: demo test lint docs notebooks browser-test clean

demo: $(VENV)/.speech
	$(BIN)/slm-interp demo --out out/demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy slm_interp

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(VENV)/.notebooks
	$(BIN)/python notebooks/execute.py --check

browser-test: $(VENV)/.browser
	command -v chromium > /dev/null || (apt-get update -qq && apt-get install -y -qq chromium fonts-dejavu-core)
	$(BIN)/python -m pytest tests/browser

# A stamp for each set of extras: installed once, and again when versions change.
$(VENV)/.speech $(VENV)/.dev $(VENV)/.docs $(VENV)/.notebooks $(VENV)/.browser: $(VENV)/.%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) out site build *.egg-info
