# make demo: detect on photos, score, report.   make test: all tests.   make lint: ruff and mypy.
# Each sets up what it needs in .venv, once, and again when the dependencies change.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-slow lint clean

install: $(BIN)/.installed

demo: $(BIN)/.installed
	$(BIN)/python docs/demo/photos.py | $(BIN)/python tools/detect.py - out=out/demo
	$(BIN)/python tools/score.py format=coco predictions=out/demo/detections.json \
	    annotations=docs/demo/annotations.json out=out/demo
	@echo "Open out/demo/report.html"

test: $(BIN)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(BIN)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "slow or not slow"

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "make: needs Python 3.11 or newer, for instance: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
