# make demo | test | lint | bench: each makes .venv on first use and reuses it after.
#
#   make test ARGS='tests/t5 -x'   passes arguments to pytest
#   PYTHON=/path/to/python make …  chooses the interpreter of a new .venv

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

.PHONY: help demo test slow-test coverage lint audit format bench

help:
	@echo 'make demo   data, decoding, calibration and report on real text'
	@echo 'make test   tests; make slow-test: the slow ones'
	@echo 'make coverage  branches of calibration and early exit that tests run'
	@echo 'make lint   ruff: rules and format; mypy: types; pip check'
	@echo 'make audit  known vulnerabilities of the dependencies'
	@echo 'make bench  ms per token: our measures, other engines, memory bandwidth'
	@echo 'make format let ruff repair what it can'

demo: $(STAMP)
	@echo '== demo: decode at a grid of thresholds, calibrate, evaluate, report'
	$(BIN)/calm demo $(ARGS)

test: $(STAMP)
	@echo '== test: pytest on tests/ (minutes on 2 cores)'
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

coverage: $(STAMP)
	@echo '== coverage: calibration and early exit, with branches (minutes)'
	$(BIN)/python -m pytest --cov -n 2 --dist loadfile \
	  $(or $(ARGS),tests/calibration tests/early_exit \
	    tests/cli/calibrate_faults_test.py)

slow-test: $(STAMP)
	@echo '== slow-test: many devices, processes that end, bfloat16 (minutes)'
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(STAMP)
	@echo '== lint: ruff check, ruff format --check, mypy, shellcheck, pip'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck .ci/*
	$(BIN)/python -m pip check

audit: $(STAMP)
	@echo '== audit: known vulnerabilities of constraints.txt (asks the index)'
	$(BIN)/python -m venv build/audit
	build/audit/bin/pip install --quiet pip-audit
	build/audit/bin/pip-audit --strict --requirement constraints.txt --no-deps \
	  --disable-pip $(ARGS)

bench: $(STAMP)
	@echo '== bench: ms per token of CALM-sized decoders (an hour; idle cores)'
	$(BIN)/python -m benchmarks.decode $(ARGS)

format: $(STAMP)
	@echo '== format: ruff check --fix, ruff format'
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Written last, so that an interrupted installation is taken up again.
$(STAMP): setup.py constraints.txt .ci/make_venv
	@.ci/make_venv $(VENV)
	@echo '== install: calm_jax and its dependencies, versions as tested'
	$(BIN)/python -m pip install -e '.[dev]' -c constraints.txt
	@touch $@
