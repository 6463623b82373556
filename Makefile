# Two commands do all the set-up: `make demo` and `make test`. Needs Python >= 3.11 and a package index.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2])' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
DATA ?= $(FEDKIT_DATA)
# one thread per process: small matrices lose time to thread switches
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export FEDKIT_DATA ?=

.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24

demo: $(VENV)/.demo ## Run a federation on handwritten digits and leave a report
	@$(BIN)/fedkit run digits

demo-deploy: $(VENV)/.deploy ## An aggregator and five devices over TLS; one of each is killed on the way
	@$(BIN)/python clients/demo-deploy/demo.py

test: check ## Run all tests, type checks and lint

check: $(VENV)/.dev lint types tests

# more processes than cores: many tests wait for programs that they have started
tests: $(VENV)/.dev ## Run the tests only
	$(BIN)/python -m pytest -n 4 --dist worksteal -q -rs $(PYTEST_ARGS)

types: $(VENV)/.dev ## Run mypy --strict and pyright
	$(BIN)/mypy
	$(BIN)/basedpyright

lint: $(VENV)/.dev ## Run ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-wheel: $(VENV)/.dev ## Build the wheel and test it in a fresh environment outside the repository
	$(BIN)/python tests/wheel.py

bench-codecs: $(VENV)/.dev ## Bits, error, speed and memory of every codec
	$(BIN)/python tests/bench/codecs.py

prove-codecs: $(VENV)/.dev ## Accuracy over bytes on real data, 3 seeds (160 minutes beside a load of 4 to 10; needs FEDKIT_DATA)
	$(BIN)/python -m pytest -q -s -rs -m prove tests/prove/test_codecs.py tests/prove/test_codecs_ring.py

prove-fuzz: $(VENV)/.dev ## Fuzz the decoder of every codec for a minute each
	FEDKIT_FUZZ_SECONDS=60 $(BIN)/python -m pytest -q -s tests/codecs/test_fuzz.py -k mutated

bench-simulation: $(VENV)/.dev ## A training round beside the obvious loop and pfl, and what it costs beside training
	$(BIN)/python tests/bench/simulation.py
	$(BIN)/python tests/bench/overhead.py

bench-secagg: $(VENV)/.dev ## Secure sums and their parts beside their floors and beside Flower's, where flwr is installed
	$(BIN)/python tests/bench/secagg_primitives.py
	$(BIN)/python -m tests.bench.secagg

bench-flower: $(VENV)/.dev ## One bad client of four: fedkit beside Flower's own FedAvg
	$(BIN)/python tests/bench/flower_bad_client.py

bench-flower-transport: $(VENV)/.dev ## A round over fedkit's own devices and over Flower: seconds, bytes, memory
	$(BIN)/python tests/bench/flower_transport.py

prove-edge-secure: $(VENV)/.dev ## Secure sums over sockets, client or server killed at each stage
	$(BIN)/python -m pytest -q -m prove tests/faults/test_edge_secure.py tests/faults/test_links_secure.py

prove-links: $(VENV)/.dev ## Each fault of a link alone, between real processes
	$(BIN)/python -m pytest -q -m prove tests/faults/test_links.py

prove-fedprox: $(VENV)/.dev ## FedProx against FedAvg with stragglers, 3 data sets (7.5 minutes of CPU time)
	$(BIN)/python -m pytest -q -s -rs -m prove tests/prove/test_fedprox.py

prove-mnist: $(VENV)/.dev ## McMahan's 2NN to 97 %, softmax by writer and in shards (needs FEDKIT_DATA)
	$(BIN)/python -m pytest -q -s -rs -m prove tests/prove/test_mnist.py

prove-heart: $(VENV)/.dev ## FLamby's four hospitals, 5 seeds (needs FEDKIT_DATA)
	$(BIN)/python -m pytest -q -s -rs -m prove tests/prove/test_heart.py

prove-secagg: $(VENV)/.dev ## Secret sums on MNIST by writer, a fifth lost in each round, 3 seeds (needs FEDKIT_DATA); every pair of losses
	$(BIN)/python -m pytest -q -s -rs -m prove tests/prove/test_secagg.py tests/secagg/test_losses.py

prove-dropout: $(VENV)/.dev ## Half of all clients crash in each round
	$(BIN)/python -m pytest -q -s -rs -m prove tests/prove/test_dropout.py

soak: $(VENV)/.dev ## Deployments: 200 kills of server and clients, outages of 80 s and 10 minutes, memory over 1,000 rounds
	$(BIN)/python -m tests.faults.soak kills
	$(BIN)/python -m tests.faults.soak outage
	$(BIN)/python -m tests.faults.soak outage --seconds 600
	$(BIN)/python -m tests.faults.soak leak

bench-edge: $(VENV)/.dev ## A deployment's load: idle clients, large uploads, memory, traffic, time of a round
	$(BIN)/python -m tests.bench.edge

clean: ## Remove the environment, caches and builds (runs/ is kept)
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "fedkit needs Python 3.11 or newer; none was found (set PYTHON=/path/to/python)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.deploy: pyproject.toml | $(VENV)/bin/python
	$(PIP) -e '.[demo,server]'
	@touch $@ $(VENV)/.demo

# torch first and pinned, so that nothing else pulls a CUDA build
$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -c constraints.txt torch
	$(PIP) -c constraints.txt -e '.[dev,torch]'
	@touch $@ $(VENV)/.demo $(VENV)/.deploy

.PHONY: help demo demo-deploy prove-edge-secure prove-links test check tests types lint format test-wheel bench-codecs bench-flower bench-flower-transport bench-secagg bench-simulation prove-codecs prove-fuzz \
	prove-fedprox prove-mnist prove-heart prove-dropout prove-secagg soak bench-edge clean
