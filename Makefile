# Every task a person runs. `make help` lists them; what they do is written in tools/.

PYTHON ?= python3
VENV := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check fuzz bench golden format lock wheel bare clean

help: ## list these tasks
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing, make .venv, build runsc and the agent
	@$(PYTHON) tools/bootstrap.py

demo: setup ## build the default image and run two programs in sandboxes
	@$(VENV)/python tools/demo.py

test: setup ## run every check and every test
	@$(VENV)/python tools/check.py --native-tests
	@$(VENV)/python -m benchmarks.base_image
	@$(VENV)/python -m pytest

check: setup ## formats, lints, types, import contracts, generated files
	@$(VENV)/python tools/check.py

fuzz: setup ## fuzz both ends of the agent protocol, 60 seconds each
	@SKERRY_FUZZ_SECONDS=60 $(VENV)/python -m pytest --timeout=600 tests/unit/node/test_streams.py -k any_bytes
	@cd agent && SKERRY_FUZZ_SECONDS=60 cargo test --release --locked fuzz

bench: setup ## measure what SPECIFICATION.md promises
	@$(VENV)/python -m benchmarks

golden: setup ## write the golden files and the generated code anew
	@$(VENV)/python tools/check.py --write golden

format: setup ## format all sources
	@$(VENV)/python tools/check.py --write format

lock: setup ## choose the newest dependencies that pyproject.toml allows
	@$(VENV)/python tools/lock.py

wheel: setup ## build the sdist and the wheel into dist/
	@$(VENV)/python tools/build_wheel.py

bare: setup ## prove `make test` in a bare Debian root with only Python, Go and Rust
	@$(VENV)/python tools/bare_root.py

clean: ## remove everything that was built here
	rm -rf build dist .venv src/skerry/_bin agent/target launcher/target .mypy_cache .ruff_cache .pytest_cache .hypothesis
