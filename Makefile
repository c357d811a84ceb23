# Thin: every target is one command that also works without make (see README.md).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo up check lint test faults bench soak clean

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/.ready  ## the whole system on this machine, with real danmaku:  make demo ARGS="--duration 60"
	$(BIN)/liveroom demo $(ARGS)

up: $(VENV)/.ready  ## the services alone
	$(BIN)/liveroom up $(ARGS)

check: lint test  ## everything CI runs

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/.ready
	$(BIN)/python -m pytest $(ARGS)

faults: $(VENV)/.ready  ## every fault on the real Kafka, with random timing:  make faults ROUNDS=5
	LIVEROOM_FAULT_ROUNDS=$(or $(ROUNDS),3) $(BIN)/python -m pytest tests/faults -m "fault or slow" -s $(ARGS)

bench: $(VENV)/.ready  ## make bench ONLY=e2e
	$(BIN)/python -m tests.bench $(ONLY)

soak: $(VENV)/.ready  ## half an hour with churn: does any process grow?  make soak ARGS="--minutes 10"
	$(BIN)/python -m tests.soak $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
