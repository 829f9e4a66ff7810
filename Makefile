# Every target sets up .venv by itself. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCALE ?= cpu
RESULTS ?= results
# RETRAIN=1 trains also the jobs whose results are committed in experiments/reference
STORE := $(if $(RETRAIN),--no-store)
# Where papers train, and how many jobs at once: ENGINE=local|slurm|ray WORKERS=4 ENGINE_SET="partition=gpu gpus=1"
BY := $(if $(ENGINE),--engine $(ENGINE)) $(if $(WORKERS),--workers $(WORKERS)) $(addprefix --engine-set ,$(ENGINE_SET))
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup setup-cuda quickstart benchmark inspo pjap omar sit yanhui evidence bench bench-omar plan bench-accelerator wheels drill datasets report docs notebook test test-all test-slurm test-ray test-oldest test-newest lint check clean

help:                     ## this list
	@grep -hE '^[a-zA-Z0-9_%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([^:]+):[^#]*## (.*)/\1\t\2/' | expand -t 18

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxoff needs Python 3.11 or newer, found " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

setup: $(READY)           ## the environment in .venv, with CPU wheels

setup-cuda: $(READY)      ## the same with CUDA wheels, for an NVIDIA accelerator
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt '.[cuda]'

QUICK := $(RESULTS)/quickstart

quickstart: $(READY)      ## two methods on a 2x2 game, five seeds each, and a page that compares them
	$(BIN)/jaxoff train bc matrix/xor/b --steps 300 --out $(QUICK)/bc
	$(BIN)/jaxoff train inspo matrix/xor/b --steps 300 --out $(QUICK)/inspo
	$(BIN)/jaxoff report $(QUICK)

benchmark: $(READY)       ## five papers on one page, each by a small experiment   (SCALE=smoke|cpu|full, RETRAIN=1)
	$(BIN)/python -m jaxoff.experiments.suite --scale $(SCALE) --out $(RESULTS)/benchmark-$(SCALE) $(STORE) $(or $(strip $(BY)),--workers 2)

inspo pjap omar yanhui: $(READY) ## one paper: every table and figure   (SCALE=..., RETRAIN=1, ENGINE=local|slurm|ray, WORKERS=..., ENGINE_SET=...)
	$(BIN)/python -m jaxoff.experiments.$@ all --scale $(SCALE) --out $(RESULTS)/$@-$(SCALE) $(STORE) $(BY)

inspo-%: $(READY)         ## a part: inspo-table1 ... -table7, -fig3, -fig5; -smax: tables 4-7; -tune: coefficients
	$(BIN)/python -m jaxoff.experiments.inspo $* --scale $(SCALE) --out $(RESULTS)/inspo-$(SCALE) $(STORE) $(BY)

pjap-%: $(READY)          ## one figure: pjap-fig1 ... -fig5 -extras; -fig6: sequences   (DATA=folder of public data)
	$(BIN)/python -m jaxoff.experiments.pjap $* --scale $(SCALE) --out $(RESULTS)/pjap-$(SCALE) $(if $(DATA),--data-dir $(DATA)) $(STORE) $(BY)

omar-%: $(READY)          ## a part: omar-landscape -motivation -agents -control -online -mpe -mujoco -smac -maze -centralised -search (DATA=...)
	$(BIN)/python -m jaxoff.experiments.omar $* --scale $(SCALE) --out $(RESULTS)/omar-$(SCALE) $(if $(DATA),--data-dir $(DATA)) $(STORE) $(BY)

sit: $(READY)             ## SIT: table 1 and every figure; hours   (SCALE=...)
	$(BIN)/python -m jaxoff.experiments.sit all --scale $(SCALE) --out $(RESULTS)/sit-$(SCALE) $(STORE) $(BY)

sit-%: $(READY)           ## a part: sit-table1, sit-fig1f -fig3 -fig4a -fig4b -fig4c -fig7 -fig8, -fig9 ... -fig20; -claim: few maps (-claim-mpe, -claim-smax); -tune
	$(BIN)/python -m jaxoff.experiments.sit $* --scale $(SCALE) --out $(RESULTS)/sit-$(SCALE) $(STORE) $(BY)

yanhui-%: $(READY)        ## a part: yanhui-table1, -table2, -fig1, -fig2; -claim: 3m with YANHUI, MADT, BC
	$(BIN)/python -m jaxoff.experiments.yanhui $* --scale $(SCALE) --out $(RESULTS)/yanhui-$(SCALE) $(STORE) $(BY)

evidence: $(READY)        ## verdicts on the papers' claims from committed results, as pages in docs/   (MEASURE="names" of what takes minutes, DATA=)
	$(BIN)/python -m jaxoff.experiments.evidence $(if $(MEASURE),--measure $(MEASURE)) $(if $(DATA),--data-dir $(DATA))

bench: $(READY)           ## updates/s of each learner, tokens/s of transformers, by number of runs; writes experiments/bench/
	$(BIN)/python -m jaxoff.experiments.bench

bench-omar: $(READY)      ## OMAR's rounds/s beside PyTorch; installs torch, or takes PEER_PYTHON=an interpreter that has it (PUBLIC=the authors' checkout)
	test -n '$(PEER_PYTHON)' || $(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check torch
	$(BIN)/python -m jaxoff.experiments.bench.omar $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON)) $(if $(PUBLIC),--public $(PUBLIC))

# The CUDA wheels, 5 GB, in an environment of their own; no GPU is needed.
PLAN_READY := .venv-plan/.ready
$(PLAN_READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-plan
	.venv-plan/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cuda,mujoco]' pytest
	@touch $@

plan: $(PLAN_READY)       ## every learner compiled for an A100, an H100 and an H200, without a GPU: memory, kernels, floors; an hour or two, what is there is kept   (ONLY="inspo omar")
	JAX_PLATFORMS=cpu .venv-plan/bin/python -m jaxoff.experiments.bench.plan $(ONLY)

bench-accelerator: $(READY) ## on a machine with a GPU: 8 minutes of learners, speeds, PyTorch, a table, planned against measured   (SMOKE=1, OUT=folder, PEER_PYTHON=)
	$(BIN)/python -m jaxoff.experiments.bench.accelerator $(if $(SMOKE),--smoke) $(if $(OUT),--out $(OUT)) $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON))

wheels: $(READY)          ## what a GPU machine without a network needs, in wheels/; there: experiments/bench/accelerator.sh wheels
	PYTHON=$(BIN)/python experiments/bench/wheels.sh wheels

drill: $(READY)           ## kills, bad input, failed runs and other devices: what held, as a page in $(RESULTS)/drill; minutes
	$(BIN)/python -m jaxoff.experiments.drill --out $(RESULTS)/drill

datasets: $(READY)        ## every dataset that has a recipe, and a table of what they hold; hours   (what is there is kept)
	$(BIN)/python -m jaxoff.experiments.datasets --out $(RESULTS)/datasets

report: $(READY)          ## tables, curves and a page from every result in $(RESULTS), without training
	$(BIN)/jaxoff report $(RESULTS)

# What the extra `docs` names is installed here, and not by the set-up.
DOCS_READY := $(VENV)/.docs-ready
$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: $(DOCS_READY)       ## the pages of docs/ and an API reference as a site, in site/index.html; a broken link fails
	NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(BIN)/mkdocs build --strict

notebook: $(DOCS_READY)   ## the notebook of docs/notebooks/, executed anew; its outputs are stored in it
	rm -rf build/notebook && mkdir -p build/notebook && cp docs/notebooks/quickstart.ipynb build/notebook
	JAX_PLATFORMS=cpu $(BIN)/jupyter execute --inplace build/notebook/quickstart.ipynb
	cp build/notebook/quickstart.ipynb docs/notebooks

test: $(READY)            ## the tests, on every core
	$(BIN)/python -m pytest -n auto --dist worksteal --max-worker-restart 0 -m "not slow" tests

test-all: $(READY)        ## the same, and those marked slow
	$(BIN)/python -m pytest -n auto --dist worksteal --max-worker-restart 0 tests

test-slurm: $(READY)      ## an experiment by a Slurm that is started here, with kills, against local processes; needs root   (OVERHEAD=1: the time it adds to a job, instead)
	experiments/drill/slurm.sh $(BIN)/python -m jaxoff.experiments.drill.engines slurm --out $(RESULTS)/engines $(if $(OVERHEAD),--overhead)

test-ray: $(READY)        ## the same by a Ray cluster on this machine; installs the extra `ray`   (OVERHEAD=1: the time it adds to a job, instead)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[ray]'
	RAY_USAGE_STATS_ENABLED=0 $(BIN)/python -m jaxoff.experiments.drill.engines ray --out $(RESULTS)/engines $(if $(OVERHEAD),--overhead)

# Each in an environment of its own. Python: from the path, or else from pyenv.
OLDEST ?= $(lastword python3.11 $(wildcard $(HOME)/.pyenv/versions/3.11.*/bin/python3))
NEWEST ?= $(lastword python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python3))
TESTS ?= -m "not slow" tests

test-oldest:              ## the tests on Python 3.11 with the lowest versions that pyproject.toml allows   (TESTS=...)
	$(OLDEST) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable '.[dev]'
	.venv-oldest/bin/python -m pytest -n auto --dist worksteal --max-worker-restart 0 $(TESTS)

# Gymnax, which JaxMARL needs, caps JAX; the newest one is installed all the same.
test-newest:              ## the tests on Python 3.13 with the newest versions of everything   (TESTS=...)
	$(NEWEST) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --editable '.[dev]'
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps jax jaxlib
	.venv-newest/bin/python -m pytest -n auto --dist worksteal --max-worker-restart 0 $(TESTS)

# mypy sees the folders as they are installed: baselines/ and experiments/ below jaxoff/.
lint: $(READY)            ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf .types && mkdir -p .types/jaxoff && ln -s $(CURDIR)/jaxoff/* $(CURDIR)/baselines $(CURDIR)/experiments .types/jaxoff
	cd .types && $(CURDIR)/$(BIN)/mypy --config-file ../pyproject.toml --package jaxoff

check: lint test          ## what CI runs

clean:                    ## remove .venv and caches; results stay
	rm -rf $(VENV) .venv-oldest .venv-newest .venv-plan wheels site .types build .pytest_cache .ruff_cache .mypy_cache *.egg-info
