# Two commands on a fresh machine: `make lab` opens the course, `make test` checks everything.
# LAB_ARGS: further arguments for JupyterLab, e.g. make lab LAB_ARGS="--no-browser --port=9999"
# TEST_ARGS: further arguments for pytest, e.g. make test TEST_ARGS="-k mlp"
# WORKERS: test processes.
# BENCH_ARGS: further arguments for the benchmark, e.g. make bench BENCH_ARGS="--only LSTM --parts time"

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LAB_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
WORKERS ?= 2
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb)) $(sort $(wildcard notebooks/solutions/*.ipynb))

# One BLAS thread: the same sums in the same order on every run. No progress bars in stored outputs.
export OPENBLAS_NUM_THREADS = 1
export TQDM_DISABLE = 1

.PHONY: lab test lint equations notebooks bench clean
.DELETE_ON_ERROR:

# Each environment is made once; a marker is newer than the pyproject.toml it was made from.
$(VENV)/.%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e ".[$*]"
	touch $@

lab: export TQDM_DISABLE =
lab: $(VENV)/.lab
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(LAB_ARGS)

# The tests print the table of equations behind them.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --nbval --nbval-current-env tests notebooks $(TEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .

equations: $(VENV)/.test
	$(BIN)/python -m backprop_lib.equations render $(NOTEBOOKS)

notebooks: equations
	$(BIN)/python notebooks/run.py $(NOTEBOOKS)

# Ours side by side with PyTorch, JAX and autograd, as far as they are installed: benchmarks/results/report.md.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
