# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
CATALOG ?= artifacts
BENCHES := catalog corpus dedup demo eval_overhead extraction fetch gate_operating_characteristics languages quality tokens

.PHONY: demo test lint bench lock clean

demo: .venv/.ready
	$(BIN)/sea-lion run tiny --catalog $(CATALOG)

test: .venv/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: .venv/.ready
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	@for name in $(BENCHES); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

# torch first and by name: pip then takes a CPU build where one lies on the machine.
.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$$(grep -E '^torch==' requirements.lock | cut -d' ' -f1)"
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

lock:
	$(BIN)/pip-compile --quiet --extra dev --strip-extras --no-emit-index-url --no-emit-find-links --no-header --annotation-style line --constraint .ci/constraints.txt --output-file requirements.lock pyproject.toml
	sed -i 's/+cpu//' requirements.lock

clean:
	rm -rf $(CATALOG) build dist
