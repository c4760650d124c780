# Every target sets up first; a second set-up is instant. KIND=cpu|gpu overrides what the machine has.
KIND ?= auto
PY := .venv/bin/python
PHOTO ?= scripts/data/astronaut.png

.PHONY: help setup demo serve test check fix clean

help:
	@echo "make demo    set up, send a photo to both endpoints through fal's own client, pictures in out/"
	@echo "make serve   set up, then keep a server running on the tiny profile (WEIGHTS=full for real checkpoints)"
	@echo "make test    set up, run every test that this machine can run"
	@echo "make check   set up, formatting, lint, import contracts, types, docs"
	@echo "make fix     format and mend what the linter can mend"
	@echo "make clean   remove the environment and what was made"

setup:
	@bash scripts/setup.sh $(KIND)

demo: setup
	@$(PY) -m scripts.demo --photo $(PHOTO)

WEIGHTS ?= tiny
serve: setup
	@.venv/bin/veraicon serve --weights $(WEIGHTS)

test: setup
	@$(PY) -m pytest

check: setup
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/lint-imports
	@.venv/bin/pyright
	@$(PY) -m scripts.check_docs

fix: setup
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

clean:
	rm -rf .venv out dist .pytest_cache .ruff_cache .hypothesis
