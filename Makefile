# make demo    answer real prompts with the shipped model, and show who routed where
# make test    run all tests
# make check   what must be clean before a commit: ruff, mypy, the tests
# make bench   measure docs/performance.md anew, beside transformers and CTranslate2 (half an hour, 16 GB)
# make format  let ruff put the code in order
# Each makes .venv first where there is none, with PYTHON (python3, which must be 3.11 or newer).

PYTHON ?= python3
BIN = .venv/bin
TINY = weights/switch-tiny.h5

.PHONY: demo test check bench format clean

demo: .venv/ready
	$(BIN)/switchnp info $(TINY)
	$(BIN)/switchnp generate $(TINY) "say in French: 1984" "say in Finnish: 2026" "date in German: 2026-11-25" "date in Spanish: 1984-07-04" "pronounce: transformer" "pronounce: expert"
	$(BIN)/switchnp fill $(TINY) "In the beginning God created the <extra_id_0> and the earth."
	$(BIN)/switchnp trace $(TINY) "say in French: 1984"
	$(BIN)/python examples/against_reference.py

test: .venv/ready
	$(BIN)/python -m pytest

check: .venv/ready-to-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: .venv/ready-to-bench
	$(BIN)/python benchmarks/table.py

format: .venv/ready-to-check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/ready: setup.cfg pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'switchnp needs Python 3.11 or newer: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

.venv/ready-to-check: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test,check]"
	touch $@

.venv/ready-to-bench: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test,bench]"
	touch $@

clean:
	rm -rf .venv build *.egg-info
