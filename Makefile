# Two commands do everything on a machine with Python 3.11+, make and a C compiler:
#   make demo   render a small raw bucket, curate it, train a tiny model on it, generate clips
#   make test   lint, types, tests; `make test-all` adds the soak, `make tests` leaves out the rest
# Both make their own .venv first. PYTHON=python3.12 chooses an interpreter, DEMO=folder a place,
# WORKERS=4 how many tests run side by side.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
WORKERS ?= 3
# The CPU build of torch is a tenth of the CUDA build. Where there is no NVIDIA driver it is looked
# for in PyTorch's own index, if that can be reached; otherwise pip's default decides.
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

# A file's tests stay in one worker, in their order: they share what they have made. Files are taken
# in the order of tests/conftest.py.
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 10

.PHONY: demo test test-all tests tests-all install install-dev lint types clean

# What the demo trains on brings its own words; clips without any are measured, and rejected.
CURATE := --set split.held_out_share=0.2 --set caption.backend=carried \
	--set "gates.captioned=caption.model = 'carried'" --set pack.area_px=36864

demo: $(VENV)/installed
	rm -rf $(DEMO)
	$(BIN)/twinreel demo-bucket $(DEMO)/raw
	$(BIN)/twinreel curate $(DEMO)/raw --out $(DEMO)/out $(CURATE)
	$(BIN)/twinreel verify $(DEMO)/out
	$(BIN)/twinreel train tiny --data $(DEMO)/out --run $(DEMO)/run
	$(BIN)/twinreel generate $(DEMO)/run --prompts examples/prompts.txt --out $(DEMO)/clips --scale 8
	@echo
	@echo "report:    $(DEMO)/out/report.html"
	@echo "samples:   $(DEMO)/out/shards/"
	@echo "manifests: $(DEMO)/out/manifests/   (try: $(BIN)/twinreel inspect $(DEMO)/out)"
	@echo "run:       $(DEMO)/run/log.jsonl"
	@echo "clips:     $(DEMO)/clips/   (what was asked for: examples/prompts.txt)"

test: $(VENV)/installed-dev lint types tests

test-all: $(VENV)/installed-dev lint types tests-all

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/vulture

types:
	$(BIN)/mypy

tests:
	$(PYTEST) -m "not soak"

tests-all:
	$(PYTEST)

install: $(VENV)/installed

install-dev: $(VENV)/installed-dev

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# torch's CPU build first where there is no GPU: a dependency that is met is not fetched again.
define install_torch
	@if ! command -v nvidia-smi >/dev/null && \
	    $(BIN)/python -c "import urllib.request as u; u.urlopen('$(TORCH_CPU_INDEX)/torch/', timeout=5)" \
	    2>/dev/null; then \
	  $(BIN)/python -m pip install --quiet --index-url $(TORCH_CPU_INDEX) "torch>=2.13,<2.14"; \
	fi
endef

$(VENV)/installed: $(BIN)/python pyproject.toml
	$(install_torch)
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/installed-dev: $(BIN)/python pyproject.toml
	$(install_torch)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
