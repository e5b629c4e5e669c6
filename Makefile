# One command each; every target sets up what it needs.
#   make demo           hear, align, read: the main job on the packaged organism
#   make test           the tests
#   make test-tl4       the same tests on TransformerLens 4.x, in an environment of its own
#   make lint           ruff and mypy
#   make docs           the documentation site, strictly
#   make notebooks      execute every notebook and check its closing claim
#   make browser-test   the pages in headless Chromium (installed from Debian's packages if it is missing)
#   make fuzz           coverage-guided fuzzing of the readers, FUZZ_SECONDS for each

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --disable-pip-version-check
PIP := $(BIN)/python $(INSTALL) --constraint constraints.txt
VENV4 := .venv-tl4
PIP4 := $(VENV4)/bin/python $(INSTALL)
TL4 := transformer-lens==4.3.0
FUZZ_SECONDS ?= 60
# One test file at a time on each core; the tests themselves take one thread.
SPREAD := --numprocesses auto --dist loadfile
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1

.PHONY: demo test test-tl4 lint docs notebooks browser-test fuzz clean

demo: $(VENV)/.speech
	$(BIN)/slm-interp demo --out out/demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(SPREAD)

test-tl4: $(VENV4)/.dev
	$(VENV4)/bin/python -m pytest $(SPREAD)

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

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz $(FUZZ_SECONDS)

# A stamp for each set of extras: installed once, and again when versions change.
$(VENV)/.speech $(VENV)/.dev $(VENV)/.docs $(VENV)/.notebooks $(VENV)/.browser $(VENV)/.fuzz: $(VENV)/.%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 --editable ".[$*]"
	touch $@

# The same packages, and 4.x laid over 3.9: beside our own bound on the dependency pip would refuse it.
$(VENV4)/.dev: pyproject.toml constraints.txt Makefile
	test -x $(VENV4)/bin/python || $(PYTHON) -m venv $(VENV4)
	$(PIP4) --constraint constraints.txt torch==2.13.0 --editable ".[dev]"
	$(PIP4) --no-deps $(TL4)
	touch $@

clean:
	rm -rf $(VENV) $(VENV4) out site build *.egg-info
