# Copyright: (c) 2026, the servicemesh.migration authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Every target sets up what it needs first. The cache is ~/.cache/servicemesh-lab (LAB_CACHE moves it); nothing else is left behind.
PYTHON ?= python3
OLD_PYTHON := $(shell $(PYTHON) -c 'import sys; print("" if sys.version_info >= (3, 11) else sys.version.split()[0])' || echo none)
ifneq ($(OLD_PYTHON),)
$(error $(PYTHON) is Python $(OLD_PYTHON), and 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...)
endif
SETUP := $(PYTHON) -m dev.setup
RUN := $(PYTHON) -m dev.run
# Processes that run tests at once: one has the lab, the others the rest (tests/groups.py). Three keep two cores busy: tests wait.
JOBS ?= 3
export PYTHONDONTWRITEBYTECODE := 1
.DEFAULT_GOAL := help
.PHONY: help changelog demo test lint sanity units integration molecule importer bench lab-up lab-down setup venv clean-cache

help: ## these lines
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: ## Debian packages, Python packages, Go programs (about 14 minutes the first time, 1 second later)
	@$(SETUP) system venv programs

venv: ## only the Python packages
	@$(SETUP) venv

demo: setup ## watch live traffic move from Istio to ASM and nothing be lost (ROLLBACK=1: a gate trips and it moves back; STRICT=1: mutual TLS only)
	@$(RUN) python -m lab.demo

test: setup ## everything that CI runs (LAB_THOROUGH=1: the long campaigns too)
	@$(RUN) pytest -n $(JOBS) -v --durations=15 tests/unit tests/test_repository.py tests/integration

units: venv ## tests that need no lab
	@$(RUN) pytest tests/unit

integration: setup ## tests in the lab (LAB_NAME=x uses a lab that is up, LAB_KEEP=1 leaves it up)
	@$(RUN) pytest tests/integration

lint: venv ## ruff, mypy, yamllint, ansible-lint, changelog, Go
	@$(RUN) python -m dev.checks lint

sanity: venv ## ansible-test sanity, with no ignore file
	@$(RUN) python -m dev.checks sanity

importer: venv ## build the artifact, install it offline, and import it as Galaxy does
	@$(RUN) python -m dev.checks importer

molecule: setup ## the role, as its users run it
	@$(RUN) python -m dev.checks molecule

bench: setup ## the figures of docs/benchmarks.md (P=P5,P8 chooses)
	@$(RUN) python -m lab.bench

lab-up: setup ## bring a lab up (LAB_NAME names it)
	@$(RUN) bin/lab up

lab-down: venv ## take it down
	@$(RUN) bin/lab down

changelog: venv ## take fragments and new plugins into the changelog of the version in galaxy.yml
	@$(RUN) antsibull-changelog release --update-existing --reload-plugins

clean-cache: ## remove everything that setup made outside the tree
	@$(PYTHON) -m dev.clean
