# The verbs of this repository. `make` alone lists them.
#
#   PYTHON       the interpreter the virtual environment is made from (3.10 or newer)
#   CXX          the C++ compiler
#   TORCH_INDEX  an extra package index, for CPU-only torch: https://download.pytorch.org/whl/cpu
#   VENV         where the environment lives
#   PYTEST_ARGS  what pytest is told

PYTHON ?= python3
ifeq ($(origin CXX),default)
  CXX := g++
endif
export CXX
TORCH_INDEX ?=
VENV ?= .venv
# A process for each processor, four at most: each holds torch and models. The tests of a file share one.
PYTEST_ARGS ?= -n logical --maxprocesses 4 --dist loadfile
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
NATIVE_SOURCES := $(shell find csrc cmake CMakeLists.txt -type f -not -path 'csrc/tests/*' -not -path 'csrc/simt/*')
CPP_FILES = $(shell find csrc benchmarks examples -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name "*.cuh" -o -name "*.cpp")
STUB := python/tinygptv_fast/_native.pyi

.DEFAULT_GOAL := help
.PHONY: help demo test check mutants bench build stubs sanitize docs clean train-demo venv install runnable

help:
	@echo "make demo        ask the shipped demo model about a picture"
	@echo "make test        the test suite"
	@echo "make check       lint, format, types, stubs, layers"
	@echo "make mutants     plant known mistakes and see that the tests notice"
	@echo "make bench       benchmarks of this machine"
	@echo "make build       compile the native core"
	@echo "make stubs       regenerate the type stubs of the native core"
	@echo "make sanitize    C++ tests under ASan+UBSan and TSan"
	@echo "make docs        check the documentation: links, index, measured figures"
	@echo "make train-demo  train the demo model (hours; continues where it stopped; DEMO_ARGS=--minutes 25)"
	@echo "make clean       remove what was built (keeps $(VENV))"
	@echo "options: PYTHON=$(PYTHON) CXX=$(CXX) VENV=$(VENV) TORCH_INDEX=https://download.pytorch.org/whl/cpu"

# --- set-up -------------------------------------------------------------------------------------------------------
venv: $(BIN)/python

$(BIN)/python:
	@tools/check_machine.sh "$(PYTHON)" "$(CXX)"
	$(PYTHON) -m venv $(VENV)

# torch first, so that an index given for it decides which torch; then the build tools, which the package itself
# needs because it is built without isolation; then the package. The demo needs no more than that.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@tools/check_machine.sh "$(BIN)/python" "$(CXX)"
	$(PIP) install $(INDEX) $$(grep '^torch==' constraints.txt) -c constraints.txt
	$(PIP) install scikit-build-core pybind11 cmake ninja -c constraints.txt
	$(PIP) install -e . --no-build-isolation -c constraints.txt
	@touch $@ $(VENV)/.native

# What tests, checks and benchmarks need besides. The package is compiled by now, so this only adds its extras.
$(VENV)/.installed: $(VENV)/.runtime
	$(PIP) install -e '.[dev]' --no-build-isolation -c constraints.txt
	@touch $@ $(VENV)/.native

install: $(VENV)/.installed

$(VENV)/.native: $(NATIVE_SOURCES) | $(VENV)/.runtime
	$(PIP) install -q -e . --no-build-isolation --no-deps
	@touch $@

runnable: $(VENV)/.runtime $(VENV)/.native
build: $(VENV)/.installed $(VENV)/.native

# --- verbs --------------------------------------------------------------------------------------------------------
demo: runnable
	@$(BIN)/tinygptv demo --out out/demo

test: build
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# One rule per tool, so that `make -k check` shows every tool's complaints.
CHECKS := check-lint check-format check-types check-cpp check-stubs check-layers
.PHONY: $(CHECKS)
check: $(CHECKS)
check-lint: build
	$(BIN)/ruff check .
check-format: build
	$(BIN)/ruff format --check .
check-types: build
	$(BIN)/mypy
check-cpp: build
	@echo clang-format --dry-run -Werror
	@$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)
check-stubs: build
	$(BIN)/python tools/make_stubs.py --check $(STUB)
check-layers: build
	$(BIN)/python tools/check_layers.py

# Plants one known mistake at a time and fails unless a test notices it.
mutants: build
	$(BIN)/python tools/mutation_check.py

stubs: build
	$(BIN)/python tools/make_stubs.py $(STUB)

bench: build
	$(BIN)/python benchmarks/machine.py
	$(BIN)/python benchmarks/quantize_error.py
	$(BIN)/python benchmarks/quantize_speed.py
	$(BIN)/python benchmarks/int4_matmul.py
	$(BIN)/python benchmarks/paged_attention.py
	$(BIN)/python benchmarks/norm.py
	$(BIN)/python benchmarks/embedding.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/matmul.py
	$(BIN)/python benchmarks/linear_step.py
	$(BIN)/python benchmarks/thread_pool.py
	$(BIN)/tinygptv bench

sanitize: $(VENV)/.installed
	CMAKE=$(BIN)/cmake CTEST=$(BIN)/ctest NINJA=$(abspath $(BIN))/ninja tools/sanitize.sh

docs: build
	$(BIN)/python tools/check_docs.py

train-demo: build
	$(BIN)/python -m tinygptv_fast.train.demo $(DEMO_ARGS)


clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache $(VENV)/.native
