# Two commands: `make demo` and `make test`. Each makes its own environment below .venv with $(PYTHON), 3.11 or newer.
PYTHON ?= python3
WORKERS ?= 2

.PHONY: demo test lint clean

demo: .venv/demo/done
	.venv/demo/bin/python examples/digits.py

test: .venv/test/done
	.venv/test/bin/python -m pytest -n $(WORKERS)

lint: .venv/lint/done
	.venv/lint/bin/ruff check .
	.venv/lint/bin/ruff format --check .
	.venv/lint/bin/mypy

.venv/demo/done: EXTRAS = examples
.venv/test/done: EXTRAS = test
.venv/lint/done: EXTRAS = lint

.venv/%/done: pyproject.toml
	$(PYTHON) -m venv .venv/$*
	.venv/$*/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf .venv pictures dist
