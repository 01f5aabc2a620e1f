# `make demo`, `make test`, `make sweep` (more tests of the same), `make peers-tensorflow` and `make bench`: each makes its
# own environment below .venv with $(PYTHON), 3.11 or newer; `make bench-compile` needs 3.12. What `python -m benchmarks`
# takes goes into ARGS: make bench ARGS='--only huber'. SEED is that of the random calls in the tests: the same ones
# each time in `make test`, others in each `make sweep`, which prints it. Tests marked `exact`, which compare with many
# digits, are compiled as users compile them, the others without LLVM's optimizations, in half the time; `make sweep`
# compiles everything as users do.
PYTHON ?= python3
WORKERS ?= 2
SEED ?= 0
PYTEST = .venv/test/bin/python -m pytest -n $(WORKERS) --dist worksteal --hypothesis-seed=$(SEED)

.PHONY: docs demo test sweep peers-tensorflow lint bench bench-compile clean

demo: .venv/demo/done
	.venv/demo/bin/python examples/digits.py

test: .venv/test/done
	$(PYTEST) --quick-compile -m "not exact and not sweep"
	$(PYTEST) -m "exact and not sweep"

sweep: SEED = $(shell date +%s)
sweep: .venv/test/done
	$(PYTEST) -m sweep

peers-tensorflow: .venv/tensorflow/done
	.venv/tensorflow/bin/python -m pytest tests/peers/test_migration.py -k TensorFlow

docs: .venv/docs/done
	.venv/docs/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html

bench: .venv/bench/done
	.venv/bench/bin/python -m benchmarks $(ARGS)

bench-compile: .venv/bench-compile/done
	.venv/bench-compile/bin/python -m benchmarks --compile-only $(ARGS)

lint: .venv/lint/done
	.venv/lint/bin/ruff check .
	.venv/lint/bin/ruff format --check .
	.venv/lint/bin/mypy

.venv/demo/done: EXTRAS = examples
.venv/test/done: EXTRAS = test
.venv/docs/done: EXTRAS = docs
.venv/tensorflow/done: EXTRAS = test,tensorflow
.venv/lint/done: EXTRAS = lint
.venv/bench/done: EXTRAS = bench,peers
.venv/bench-compile/done: EXTRAS = bench,compile

.venv/%/done: pyproject.toml
	$(PYTHON) -m venv .venv/$*
	.venv/$*/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf .venv pictures dist
