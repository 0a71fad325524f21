# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set up a virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Test processes; one thread each, so that two cores are not fought over.
JOBS ?= 2
# Each process compiles what is not kept compiled: the tests alone take 25 s of a processor, in every worker.
export PYTHONDONTWRITEBYTECODE :=
STAMP := $(shell cksum pyproject.toml | cut -d ' ' -f 1)

.PHONY: demo test test-all test-once doctest shapes lint types imports check bench reproduce docs clean

demo: $(VENV)/.demo-$(STAMP)
	$(BIN)/binderclip demo --out demo

# What takes minutes is left out (tests/slow.txt), but for one of each kind.
test: $(VENV)/.dev-$(STAMP) $(VENV)/.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: $(VENV)/.dev-$(STAMP) $(VENV)/.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Every test once: under checked annotations where they are true, and what did not pass there (it is not among them, or an
# annotation refuses its wrong input before the library does) as a user runs it.
# (With `=`, since pytest takes the value of an option that it does not know yet for a path of tests.)
ANNOTATED := $(VENV)/annotated.json
test-once: shapes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder tests --leave-out=$(ANNOTATED)

# The examples in docstrings.
doctest: $(VENV)/.dev-$(STAMP) $(VENV)/.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --doctest-modules src/binderclip

# Tests of what has only true annotations so far (tests/shapes.txt, a path a line), with every type and shape checked at
# every call.
SHAPES ?= $(shell cat tests/shapes.txt)
shapes: $(VENV)/.dev-$(STAMP) $(VENV)/.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(SHAPES) \
		--passed-to=$(ANNOTATED) \
		"--jaxtyping-packages=binderclip,beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"

lint: $(VENV)/.dev-$(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

imports: $(VENV)/.dev-$(STAMP)
	$(BIN)/lint-imports

types: $(VENV)/.dev-$(STAMP)
	$(BIN)/mypy

check: lint imports types doctest test-once

bench: $(VENV)/.dev-$(STAMP)
	$(BIN)/python -m benchmarks --out docs/BENCHMARKS.md

reproduce: $(VENV)/.dev-$(STAMP)
	$(BIN)/binderclip reproduce --all

docs: $(VENV)/.docs-$(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/generate/links.py site

clean:
	rm -rf $(VENV) demo runs site build dist

$(VENV)/.venv-ok:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "binderclip needs Python 3.10 or newer; say which: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.demo-$(STAMP): $(VENV)/.venv-ok
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

# The tests need what the demonstration needs, and more.
$(VENV)/.dev-$(STAMP): $(VENV)/.venv-ok
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.demo-$(STAMP)

# What the tests of the workbench look through: Debian's Chromium, and axe-core, which finds what people cannot read or
# reach. Where one of them cannot be had, those tests say so and are skipped; the next `make test` tries again.
BROWSERS := chromium-headless-shell chromium chromium-browser google-chrome
$(VENV)/.browser: $(VENV)/.venv-ok
	@which $(BROWSERS) 2>/dev/null | grep -q . \
		|| { which apt-get && apt-get update -qq && apt-get install -y -qq chromium-headless-shell; } >/dev/null 2>&1 \
		|| echo "no Chromium here, and none could be installed: the browser tests will be skipped" >&2
	@test -f $(VENV)/axe-core/axe.min.js \
		|| { mkdir -p $(VENV)/axe-core && cd $(VENV)/axe-core && npm pack --silent axe-core@4 \
			&& tar -xzf axe-core-*.tgz --strip-components=1 package/axe.min.js package/LICENSE; } >/dev/null 2>&1 \
		|| echo "no axe-core here, and npm brought none: contrast and labels will not be checked" >&2
	@if which $(BROWSERS) 2>/dev/null | grep -q . && test -f $(VENV)/axe-core/axe.min.js; then touch $@; fi

$(VENV)/.docs-$(STAMP): $(VENV)/.venv-ok
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@
