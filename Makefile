# Every target sets up first; a second set-up is instant. KIND=cpu|gpu|gpu-cu12 overrides what the machine has.
KIND ?= auto
PY := .venv/bin/python
PHOTO ?= scripts/data/astronaut.png

.PHONY: help setup demo serve test test-clients check gpu-check fix clean wheelhouse

help:
	@echo "make demo    set up, send a photo to both endpoints through fal's own client, pictures in out/"
	@echo "make serve   set up, then keep a server running on the tiny profile (WEIGHTS=full for real checkpoints)"
	@echo "make test    set up, run every test that this machine can run"
	@echo "make test-clients  every version of fal's own clients against the server, and uploads of 100 MB"
	@echo "make gpu-check  on a GPU: is every fast path right, and how fast is it (ARGS=--quick for three minutes)"
	@echo "make check   set up, formatting, lint, import contracts, types, docs, and the files in deploy/ and Dockerfile.cuda"
	@echo "make wheelhouse  download every wheel for a machine without internet (KIND=gpu, into WHEELS=wheelhouse)"
	@echo "make fix     format and mend what the linter can mend"
	@echo "make clean   remove the environment and what was made"

setup:
	@bash scripts/setup.sh $(KIND)

demo: setup
	@$(PY) -m scripts.demo --photo $(PHOTO)

WEIGHTS ?= tiny
serve: setup
	@.venv/bin/veraicon serve --weights $(WEIGHTS)

# One process more than cores, four at most: much of a test is waiting, and torch's own threads would only be in its way.
# In the order of their names, files with few long tests come before those with many short ones.
PROCESSES := $(shell echo $$(( $$(nproc) < 3 ? $$(nproc) + 1 : 4 )))
TEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
test: setup
	@bash scripts/clients.sh
	@$(TEST)

test-clients: setup
	@bash scripts/clients.sh all
	@$(PY) -m pytest tests/clients --all-clients

check: setup
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/lint-imports
	@.venv/bin/pyright
	@$(PY) -m scripts.check_docs
	@.venv/bin/hadolint Dockerfile.cuda
	@.venv/bin/yamllint --strict deploy
	@.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml deploy/compose.one-host.yaml
	@.venv/bin/kubernetes-validate --strict deploy/kubernetes/*.yaml deploy/kubernetes/examples/*.yaml

WHEELS ?= wheelhouse
# KIND is the other machine's.
wheelhouse:
	@bash scripts/setup.sh auto
	@bash scripts/wheelhouse.sh $(KIND) $(WHEELS)

# Runs on a bare machine too, with its own Python; then without the tests that need the whole environment.
gpu-check:
	@$(if $(wildcard $(PY)),$(PY),python3) -m scripts.gpu_check $(ARGS)
	@$(if $(wildcard $(PY)),$(PY) -m pytest tests/gpu -m gpu,true)

fix: setup
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

clean:
	rm -rf .venv out dist .pytest_cache .ruff_cache .hypothesis tests/clients/js/node_modules
