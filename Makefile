# The verbs of the project, the same for people and for CI. Needs python3 (3.11 or newer) with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test check bench drills deployed browser clean

help:
	@echo "make demo      six prompts to six videos with the embedded weights, into a fresh run under runs/"
	@echo "make test      the tests"
	@echo "make check     ruff, mypy and the import contracts"
	@echo "make bench     what the pipeline, a clip, interpolation and the demo cost here"
	@echo "make drills    fault drills at length: what dies, and what is lost by it (about an hour on two cores)"
	@echo "make deployed  the deployments on a Prefect server, a worker, S3 and Ray, step by step (minutes)"
	@echo "make browser   a Chromium for the report's test, which is skipped without one (by apt as root, or playwright's)"
	@echo "make setup     only the virtual environment (every other verb does it when it is missing or out of date)"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11 and run make again." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,s3]'
	@touch $@

demo: $(STAMP)
	$(BIN)/magicvideo generate examples/prompts.txt --output runs --preset tiny

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone"
	$(BIN)/python -m pytest -m alone

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python tests/bench/pipeline.py
	$(BIN)/python tests/bench/clip.py
	$(BIN)/python tests/bench/vfi.py
	$(BIN)/python tests/bench/vfi_speed.py
	$(BIN)/python tests/bench/demo.py

drills: $(STAMP)
	$(BIN)/python tests/bench/fault_drills.py

deployed: $(STAMP)
	$(BIN)/python tests/bench/deployments.py

browser: $(STAMP)
	$(BIN)/python tests/browsers.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
