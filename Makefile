# Commands of this repository; each says what it needs when something is missing.
#
#   make demo    a video from a prompt: PROMPT="a horse turns around" SEED=1 STEPS=4 OUT=output COMFYUI=/path/to/ComfyUI
#   make ui      the same server for the browser: PORT=8188
#   make test    everything; make check   format, lint, types and the fast tests; make setup   the environment alone

PYTHON ?= python3
VENV_PYTHON = .venv/bin/python
SHIPPED = __init__.py nodes videolcm_core training scripts tests benchmarks

# The values reach the scripts through the environment and unexpanded, so that quotes and dollar signs in a prompt
# stay as typed; a value that is not given stays unset.
define literal
ifneq ($$(origin $(1)),undefined)
override $(1) := $$(value $(1))
export $(1)
endif
endef
$(foreach name,PROMPT SEED STEPS OUT COMFYUI COMFYUI_PYTHON PORT,$(eval $(call literal,$(name))))

.PHONY: help setup demo ui test check format

help:
	@sed -n '3,5s/^# *//p' Makefile

setup:
	@$(PYTHON) scripts/setup.py

demo:
	@$(PYTHON) scripts/demo.py

ui:
	@$(PYTHON) scripts/demo.py --ui

test:
	@$(PYTHON) scripts/setup.py --tests
	@$(VENV_PYTHON) scripts/test.py

check:
	@$(PYTHON) scripts/setup.py
	@$(VENV_PYTHON) scripts/check.py
