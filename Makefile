# Thin: every target is one command that also works without make (see README.md).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SYSTEM = system

.PHONY: demo up check beside system lint test kube faults bench soak clean

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/.ready  ## the whole system on this machine, with real danmaku:  make demo ARGS="--duration 60"
	$(BIN)/liveroom demo $(ARGS)

up: $(VENV)/.ready  ## the services alone
	$(BIN)/liveroom up $(ARGS)

# Tests of the running system wait most of the time, so the others are run beside them, giving way to them.
check: $(VENV)/.ready  ## everything CI runs
	@$(MAKE) --no-print-directory -j2 beside system

beside: $(VENV)/.ready
	@nice -n 15 sh -c '$(MAKE) --no-print-directory lint && $(BIN)/python -m pytest -m "not $(SYSTEM) and not slow and not kube" -p no:cacheprovider' \
	  > .beside.log 2>&1 || { cat .beside.log; exit 1; }
	@cat .beside.log

system: $(VENV)/.ready
	@$(BIN)/python -m pytest -m "$(SYSTEM) and not slow and not kube" $(ARGS)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(VENV)/.ready
	$(BIN)/python -m pytest $(ARGS)

kube: $(VENV)/.ready  ## the Kubernetes driver and manifests on a real control plane, which Go builds at the first time (minutes)
	$(BIN)/python -m pytest tests/kube -m kube -s $(ARGS)

faults: $(VENV)/.ready  ## every fault on the real Kafka, with random timing:  make faults ROUNDS=5
	LIVEROOM_FAULT_ROUNDS=$(or $(ROUNDS),3) $(BIN)/python -m pytest tests/faults -m "fault or slow" -s $(ARGS)

bench: $(VENV)/.ready  ## make bench ONLY=e2e
	$(BIN)/python -m tests.bench $(ONLY)

soak: $(VENV)/.ready  ## half an hour with churn: does any process grow?  make soak ARGS="--minutes 10"
	$(BIN)/python -m tests.soak $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
