# 'make' or 'make help' lists what there is. Each target works as the first command in a fresh clone.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench bench-quick docs clean
BIN := .venv/bin
GROUND := pyproject.toml constraints.txt scripts/setup.sh

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: .venv/.demo ## train, serve, query and retrain on real flights, in a few minutes
	@echo "Using the environment in .venv." >&2
	@$(BIN)/tidemill demo $(ARGS)

test: .venv/.test ## run every test, doctests and the house rules included
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: .venv/.test ## lint, formatting, types, import floors and the house rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/house $(ARGS)

bench: .venv/.bench ## run every benchmark; says first how long it takes
	@$(BIN)/python -m bench.run $(ARGS)

bench-quick: .venv/.bench ## run the benchmarks that matter most, in at most five minutes
	@$(BIN)/python -m bench.run --quick $(ARGS)

docs: .venv/.test ## check that the documentation and its examples say what the code does
	@$(BIN)/python -m pytest tests/house/test_docs.py tests/house/test_docs_pages.py $(ARGS)

clean: ## remove the environment, caches and build outputs; data in .tidemill stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.demo: $(GROUND)
	@scripts/setup.sh demo

.venv/.test: $(GROUND)
	@scripts/setup.sh test,check

.venv/.bench: $(GROUND)
	@scripts/setup.sh all,bench
