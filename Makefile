# make demo   install into .venv, fetch SmolLM2-135M-Instruct, ask it a question, print the receipt; then the four combinations
# make test   install what the tests need and run everything CI runs
# make test-all   also the slow tests and the peers
# make bench   trilens and llama.cpp in turn on the same files -> docs/benchmarks.md, docs/benchmarks-hybrids.md and docs/benchmarks-formats.md (compiles llama.cpp twice, as it is and with AVX2 only: ten minutes or more; ROUNDS=3)
# make validate-predictions   predicted against measured times on files of random weights -> docs/predictions.md (half an hour)
# make site   the documentation as a website in site/, offline; a broken link is an error
# make fuzz   damaged files, prompts and requests for SECONDS=60 a target, under the sanitizers where compiled code is reached (compiles it: several minutes, once); TARGET=name for one; SEED=1; PAGE=docs/reliability.md records the counts
# make wheels   wheels for Linux and an sdist into dist/, audited, each tried where no compiler is (PYTHON311= and PYTHON312= build; TRY= more interpreters to try them with)
# make elsewhere   compile the extension for macOS, and for Windows with WINDOWS_PYTHON=FOLDER (an unpacked Python for Windows), with zig

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0

.PHONY: demo test test-all lint site bench validate-predictions fuzz wheels elsewhere clean

demo: $(VENV)/.demo
	$(BIN)/trilens run "What is the capital of France?" --temperature 0
	$(BIN)/trilens combos

# Compiled to bytecode first: where Python is told to write none, each of hundreds of child processes would do it again.
# Three workers for two cores: some tests wait.
test: $(VENV)/.test lint
	@$(BIN)/python -m compileall -q src tests fuzz
	$(BIN)/python -m pytest -n 3 --dist worksteal

test-all: $(VENV)/.test lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m ""

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

site: $(VENV)/.demo $(VENV)/.docs
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs site

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "trilens needs Python 3.11 or newer; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV) || { echo "could not make $(VENV); on Debian: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

# The CPU build of PyTorch is asked for by its local version. An index without it has one number for every build, and
# on Linux that one brings several GB of CUDA.
$(VENV)/.torch: $(VENV)/bin/python
	@$(BIN)/python -m pip install --quiet "$(TORCH)+cpu" 2>/dev/null || { \
	  echo "make: your package index has no $(TORCH)+cpu; the CPU builds come from PyTorch's own index (pytorch.org," >&2; \
	  echo "make: Get started, CPU; set PIP_EXTRA_INDEX_URL to it). Installing $(TORCH) as your index has it." >&2; \
	  $(BIN)/python -m pip install "$(TORCH)"; }
	@touch $@

# Compiles the extension; again when its sources have changed.
COMPILED := $(wildcard csrc/*) src/trilens/executors/native/program.py
$(VENV)/.demo: $(VENV)/bin/python pyproject.toml CMakeLists.txt $(COMPILED)
	@command -v $${CXX:-c++} >/dev/null || { echo "make: no C++ compiler; on Debian: apt install g++" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.test: $(VENV)/.demo $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --group test
	@touch $@

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

bench: $(VENV)/.demo build/peer/.done build/peer-avx2/.done
	$(BIN)/python benchmarks/compare.py $(PEERS) --only SmolLM2 "dense 1B" "routed, 32" --page docs/benchmarks.md
	$(BIN)/python benchmarks/compare.py $(PEERS) --only hybrid --title "Benchmarks of hybrids" --page docs/benchmarks-hybrids.md
	$(BIN)/python benchmarks/compare.py $(PEERS) --only "Qwen3-0.6B" "8 of" --title "Benchmarks of k-quants and many experts" --page docs/benchmarks-formats.md

validate-predictions: $(VENV)/.demo
	$(BIN)/python benchmarks/predictions.py --folder build/models

SECONDS ?= 60
SEED ?= 1

fuzz: $(VENV)/.test build/fuzz/.done
	$(BIN)/python -m fuzz --seconds $(SECONDS) --seed $(SEED) $(if $(TARGET),--target $(TARGET)) $(if $(PAGE),--page $(PAGE)) \
	  --native build/fuzz/trilens/executors/native/_native*.so

# A copy of its own, with the address and undefined-behaviour sanitizers in the compiled part.
build/fuzz/.done: $(VENV)/bin/python pyproject.toml CMakeLists.txt $(COMPILED)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/fuzz -C build-dir=build/fuzz-objects \
	  -C cmake.define.TRILENS_SANITIZE=address,undefined .
	@touch $@

PYTHON311 ?= python3.11
PYTHON312 ?= python3.12
TRY ?= $(PYTHON311) $(PYTHON312)

build/wheels/%/.done: wheels/requirements.txt
	@$(PYTHON$(subst .,,$*)) -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$*")' 2>/dev/null || { \
	  echo "make: $(PYTHON$(subst .,,$*)) is not Python $*; name one, as in PYTHON$(subst .,,$*)=/path/to/python$*" >&2; exit 1; }
	$(PYTHON$(subst .,,$*)) -m venv build/wheels/$*
	build/wheels/$*/bin/python -m pip install --quiet -r wheels/requirements.txt
	@touch $@

wheels: build/wheels/3.11/.done build/wheels/3.12/.done
	rm -rf dist
	PATH="$$PWD/build/wheels/3.12/bin:$$PATH" build/wheels/3.12/bin/python -m build --sdist --no-isolation --outdir dist .
	PATH="$$PWD/build/wheels/3.11/bin:$$PATH" build/wheels/3.11/bin/python wheels/build.py dist
	PATH="$$PWD/build/wheels/3.12/bin:$$PATH" build/wheels/3.12/bin/python wheels/build.py dist
	build/wheels/3.12/bin/python wheels/try_wheels.py dist $(TRY)

elsewhere: build/wheels/3.12/.done
	build/wheels/3.12/bin/python wheels/elsewhere.py $(if $(WINDOWS_PYTHON),--windows-python $(WINDOWS_PYTHON))

ROUNDS ?= 3
PEERS := --peer build/peer/bin/python --peer-avx2 build/peer-avx2/bin/python --folder build/models --rounds $(ROUNDS)
AVX2_ONLY := -DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON

build/peer/.done:
	$(PYTHON) -m venv build/peer
	build/peer/bin/python -m pip install --quiet --no-cache-dir llama-cpp-python
	@touch $@

build/peer-avx2/.done:
	$(PYTHON) -m venv build/peer-avx2
	CMAKE_ARGS="$(AVX2_ONLY)" build/peer-avx2/bin/python -m pip install --quiet --no-cache-dir llama-cpp-python
	@touch $@

clean:
	rm -rf $(VENV) build dist site
