# make repro: set everything up and run the pipeline · make test: set everything up and pass the tests

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 5000
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# nothing phones home
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1

.PHONY: help setup repro test quick check hardship audit notebook bench ui demo study tensorboard clean

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: .venv/ready ## make the virtual environment with the pinned versions

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

repro: setup ## run the pipeline of params.yaml, as far as something changed
	dvc repro

# three processes, also on two cores: a quarter of the time, a test waits for a program that it has started
test: setup ## pass the tests
	pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

quick: setup ## pass the tests that are not marked slow
	pytest -m "not slow" --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: setup ## lint and check types
	ruff check
	ruff format --check
	mypy

hardship: setup ## kills, changed inputs, load: docs/reliability.md; FULL=1 for more, PARTS="inputs load" for less
	@python tests/hardship/hardship.py $(if $(FULL),--full) $(PARTS)

audit: ## ask for known vulnerabilities of the pinned packages; one that cannot be asked for is a failure
	$(PYTHON) -m venv .cache/audit
	.cache/audit/bin/python -m pip install --quiet pip-audit==2.10.1
	.cache/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements.lock

notebook: setup ## make the lesson notebooks/attention.ipynb from its script, notebooks/attention.py
	jupytext --to ipynb --update notebooks/attention.py

bench: setup ## measure speed and memory, some half an hour, or ROWS=start,memory: benchmarks/README.md
	@python benchmarks/run.py $(ROWS)

ui: setup ## show the runs in the MLflow UI, on http://127.0.0.1:5000 or PORT
	@captioner ui --port $(PORT)

demo: setup ## try MODELS="models/captioner ..." on pictures of yours, on http://127.0.0.1:7860 or PORT
	@captioner demo $(addprefix --model ,$(MODELS)) $(if $(filter file,$(origin PORT)),,--port $(PORT))

study: setup ## train DATASET=scenes with ATTENTIONS=uniform,bahdanau,dot and SEEDS=1,2,3, and say what differs
	@captioner study $(if $(DATASET),--dataset $(DATASET)) $(if $(ATTENTIONS),--attentions $(ATTENTIONS)) $(if $(SEEDS),--seeds $(SEEDS))

tensorboard: setup ## show the training's summaries, on http://127.0.0.1:6006
	tensorboard --logdir results --host 127.0.0.1

clean: ## remove what setup and the tools made; data, models and results stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
