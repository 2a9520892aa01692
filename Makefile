# Everything runs in .venv with the versions of constraints.txt. FAISS=gpu takes faiss-gpu instead of faiss-cpu.
PYTHON ?= python3
FAISS ?= cpu
BIN = .venv/bin

.PHONY: help install demo test test-all integration soak lint bench clean

help:
	@echo "make demo     install, then train and evaluate a small model on embedded data (about five minutes)"
	@echo "make test     install, then lint, types and the tests that tell whether a change is right (about seven minutes)"
	@echo "make test-all the same, and the tests that start trainings, searches, clusters and jobs (CI)"
	@echo "make soak     the tests that take minutes each: lost nodes, whole searches, slow networks"
	@echo "make install  only the environment: .venv/bin/hbt"
	@echo "make bench    the benchmarks, each beside a peer (benchmarks/agreement*.py need an evaluated run)"

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(FAISS),dev]'
	touch $@

demo: install
	$(BIN)/hbt demo

# Two processes, each with a cluster of its own where a test wants one: most of a test's time is processes that start.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: install lint
	$(PYTEST)

test-all: test integration

integration: install
	$(PYTEST) -m 'integration and not soak'

soak: install
	$(BIN)/python -m pytest -m soak

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	@for script in $(filter-out benchmarks/agreement%.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
