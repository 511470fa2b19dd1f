# The first call of any target makes .venv and installs the pinned requirements.lock; a changed lock installs again.
PYTHON ?= python3
JOBS ?= 2
BROKER_JOBS ?= 5
BIN := .venv/bin
READY := .venv/.ready
UNKNOWNS := .pytest_cache/unknown-tests
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
UV := 0.13.9

.PHONY: run test deep mutants check types contracts lab reports docs lock clean

run: $(READY)
	$(BIN)/buslab run baseline

# A test that could not judge, because the machine was too busy, counts in all calls together; more than BUSLAB_MAX_UNKNOWN fail.
test: $(READY)
	@rm -f $(UNKNOWNS)
	BUSLAB_UNKNOWNS=$(UNKNOWNS) $(BIN)/pytest -m "not broker and not deep" -n $(JOBS)
	@rm -f .pytest_cache/v/cache/lastfailed
	BUSLAB_UNKNOWNS=$(UNKNOWNS) $(BIN)/pytest -m "broker and not alone and not deep" -n $(BROKER_JOBS) --dist worksteal || \
		BUSLAB_UNKNOWNS=$(UNKNOWNS) $(BIN)/python -m tests.support.again
	BUSLAB_UNKNOWNS=$(UNKNOWNS) $(BIN)/pytest -m "alone and not deep" || BUSLAB_UNKNOWNS=$(UNKNOWNS) $(BIN)/python -m tests.support.again

# What is too long for each change; an hour or more. It prints what it did.
deep: $(READY)
	JOBS=$(JOBS) BROKER_JOBS=$(BROKER_JOBS) bash .ci/deep

# How many small changes of the judging code the tests notice, of thirty; ENOUGH=1 ends it at 95 %, DRAW=0 FILES=0 tries all some 14,000.
mutants: $(READY)
	$(BIN)/python .ci/mutants --draw $(or $(DRAW),30) --files $(or $(FILES),4) --seed $(or $(SEED),14) --jobs $(JOBS) $(if $(ENOUGH),--enough)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory -j2 types contracts

types: $(READY)
	$(BIN)/mypy

contracts: $(READY)
	$(BIN)/lint-imports

lab: $(READY)
	$(BIN)/jupyter lab notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_FLAGS)

# Every notebook anew, with its page and the index; some minutes.
reports: $(READY)
	$(BIN)/buslab notebooks --timeout 300 --html reports/notebooks

# The pages as a site, which needs no network: build/site.
docs: $(READY)
	$(BIN)/python -m docs.site

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"buslab needs Python >= 3.11; {sys.executable} is {v.major}.{v.minor}: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	@# uv installs the same pins in a third of the time; where it cannot be had, or reaches no index, pip does.
	$(PIP) uv==$(UV) && $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements.lock || \
		$(PIP) --no-compile --requirement requirements.lock
	@$(BIN)/python -m compileall -q -j 0 -x '/(tests?|pip|sympy|moto)/' .venv/lib >/dev/null 2>&1 || true  # on all cores; starts are fast then
	$(PIP) --no-deps --editable .
	@touch $(READY)

# After a change of dependencies in pyproject.toml. Needs uv: pip install uv
lock:
	uv pip compile --quiet --universal --generate-hashes --no-header --all-extras --python-version 3.11 pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv
