# Thin: each target names the script that does the work. `make` alone lists them.
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

.PHONY: help
help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: setup setup-peers
setup:  ## Debian packages, .venv with pinned packages
	@tools/setup.sh dev
setup-peers:
	@tools/setup.sh dev peers

.PHONY: build
build: setup  ## release build of the library, the CLI and the Python package
	@tools/build.sh release

.PHONY: test test-asan test-all
test: build  ## C++ tests, Python tests, lint
	@tools/test.sh
test-asan: setup  ## C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@tools/test.sh asan
test-all: setup-peers build  ## test, test-asan, and the tests that need torch and the peers
	@tools/test.sh all

.PHONY: demo demo-models
demo: setup-peers build  ## EfficientNet-Lite0 to INT8, compared with float and the peers
	@tools/run.sh python examples/demo.py
demo-models: setup-peers build  ## sentence embeddings and text reading to INT8, likewise
	@tools/run.sh python examples/demo_models.py

.PHONY: bench
bench: setup-peers build  ## micro-benchmarks and whole models against the peers
	@tools/bench.sh

.PHONY: lint format
lint: build  ## clang-format, clang-tidy, ruff, mypy, includes, README of src
	@tools/lint.sh
format: setup  ## rewrites the sources in the project's format
	@tools/lint.sh --fix

.PHONY: clean distclean
clean:  ## removes the build
	rm -rf build .cache
distclean: clean  ## removes the build and .venv
	rm -rf .venv
