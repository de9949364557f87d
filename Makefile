PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/installed

.PHONY: demo test check docs lowest clean

demo: $(INSTALLED)  ## a real search on handwritten digits, its front, and an export proven in a fresh process
	$(VENV)/bin/python -m experiments.benchmarks.demo

test: check  ## everything that must hold
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

lowest:  ## the demo with exactly the lower bounds of pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --system-certs --python .venv-lowest/bin/python --resolution lowest-direct --editable .
	.venv-lowest/bin/nas doctor
	.venv-lowest/bin/nas search digits_mobilenetv3 --help > /dev/null
	.venv-lowest/bin/python -m experiments.benchmarks.demo

docs: $(VENV)/docs  ## the documentation, in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

$(VENV)/docs: $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest
