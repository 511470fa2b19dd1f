# The first call of any target makes .venv and installs the pinned requirements.lock; a changed lock installs again.
PYTHON ?= python3
JOBS ?= 2
BROKER_JOBS ?= 3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test check lab reports docs lock clean

run: $(READY)
	$(BIN)/buslab run baseline

test: $(READY)
	$(BIN)/pytest -m "not broker" -n $(JOBS)
	$(BIN)/pytest -m broker -n $(BROKER_JOBS) --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

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
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

# After a change of dependencies in pyproject.toml. Needs uv: pip install uv
lock:
	uv pip compile --quiet --universal --generate-hashes --no-header --all-extras --python-version 3.11 pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv
