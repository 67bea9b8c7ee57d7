# Commands of this repository; each says what it needs when something is missing.
#
#   make demo    a video from a prompt: PROMPT="a horse turns around" SEED=1 STEPS=4 OUT=output COMFYUI=/path/to/ComfyUI
#   make ui      the same server for the browser: PORT=8188
#   make mini    remake the embedded models from nothing (hours): SCALE=0.01 for a quick look, WORLD=videolcm-mini-128
#   make test    everything; make check   format, lint, types, fast tests; make setup   the environment
#   make hosts   further versions of ComfyUI

PYTHON ?= python3
VENV_PYTHON = .venv/bin/python
# The values reach the scripts through the environment and unexpanded, so that quotes and dollar signs in a prompt
# stay as typed; a value that is not given stays unset.
define literal
ifneq ($$(origin $(1)),undefined)
override $(1) := $$(value $(1))
export $(1)
endif
endef
$(foreach name,PROMPT SEED STEPS OUT COMFYUI COMFYUI_PYTHON PORT,$(eval $(call literal,$(name))))

.PHONY: help setup demo ui mini test hosts check lint format

help:
	@sed -n '3,7s/^# *//p' Makefile

setup:
	@$(PYTHON) scripts/setup.py

demo:
	@$(PYTHON) scripts/demo.py

ui:
	@$(PYTHON) scripts/demo.py --ui

RUNS ?= runs/mini
SCALE ?= 1
WORLD ?= videolcm-mini
mini:
	@$(PYTHON) scripts/setup.py --training
	@PYTHON=$(VENV_PYTHON) scripts/fetch_metrics.sh runs/metrics >/dev/null
	$(VENV_PYTHON) -m training.mini.make --furniture "$$(scripts/fetch_furniture.sh runs/furniture)" \
		--lpips runs/metrics/lpips_alex_v0.1.pt --runs $(RUNS) --models $(RUNS)/models --scale $(SCALE) \
		--world $(WORLD)

# Files side by side, one process for each core: most tests compute with one thread.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
test:
	@$(PYTHON) scripts/setup.py --tests
	$(VENV_PYTHON) -m pytest -n $(WORKERS) --dist loadfile

# The versions of ComfyUI between the oldest and the newest, which `make test` runs.
hosts:
	@$(PYTHON) scripts/setup.py --tests
	$(VENV_PYTHON) -m pytest tests/host/hosts_between.py

# Fast means: no server, no page, no further processes, no training runs, no sampling with the shipped models.
SLOW = engine/test_processes.py engine/test_caches.py engine/test_identity.py engine/test_commands.py methods evaluation \
	mini/test_steps.py mini/test_shipped_models.py test_distill.py
check: lint
	$(VENV_PYTHON) -m pytest -q tests/core tests/training tests/test_imports.py tests/test_hygiene.py \
		$(addprefix --ignore=tests/training/,$(SLOW))

# The node files import the core relatively, as the host loads them: to the type checker the repository is a package.
lint: setup
	$(VENV_PYTHON) -m ruff format --check
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m mypy videolcm_core training scripts
	@mkdir -p .host/typing && ln -sfn ../.. .host/typing/pack
	cd .host/typing && ../../$(VENV_PYTHON) -m mypy --config-file ../../pyproject.toml -p pack.nodes

format: setup
	$(VENV_PYTHON) -m ruff format
	$(VENV_PYTHON) -m ruff check --fix
