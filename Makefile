# Two commands do everything on a machine with Python 3.11+, make and a C compiler:
#   make demo   render a small raw bucket, curate it, say where the report and the samples lie
#   make test   lint, types, all tests
# Both make their own .venv first. PYTHON=python3.12 chooses an interpreter, DEMO=folder a place.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
# The CPU build of torch is a tenth of the CUDA build. Where there is no NVIDIA driver it is looked
# for in PyTorch's own index, if that can be reached; otherwise pip's default decides.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo test install install-dev lint types tests clean

demo: $(VENV)/installed
	rm -rf $(DEMO)
	$(BIN)/twinreel demo-bucket $(DEMO)/raw
	$(BIN)/twinreel curate $(DEMO)/raw --out $(DEMO)/out
	$(BIN)/twinreel verify $(DEMO)/out
	@echo
	@echo "report:    $(DEMO)/out/report.html"
	@echo "samples:   $(DEMO)/out/shards/"
	@echo "manifests: $(DEMO)/out/manifests/   (try: $(BIN)/twinreel inspect $(DEMO)/out)"

test: $(VENV)/installed-dev lint types tests

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

tests:
	$(BIN)/pytest

install: $(VENV)/installed

install-dev: $(VENV)/installed-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(BIN)/python pyproject.toml
	@if ! command -v nvidia-smi >/dev/null && \
	    $(BIN)/python -c "import urllib.request as u; u.urlopen('$(TORCH_CPU_INDEX)/torch/', timeout=5)" \
	    2>/dev/null; then \
	  $(BIN)/python -m pip install --quiet --index-url $(TORCH_CPU_INDEX) "torch>=2.13,<2.14"; \
	fi
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
