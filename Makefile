# Thin: every target is one command that also works without make (see README.md).
PYTHON ?= python3
# Another Python has another environment, so that none is taken for the other:  make check PYTHON=python3.13
ANOTHER =
ifneq ($(PYTHON),python3)
ANOTHER := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
$(if $(ANOTHER),,$(error $(PYTHON) does not run))
endif
VENV ?= .venv$(if $(ANOTHER),-$(ANOTHER))
BIN = $(VENV)/bin
SYSTEM = system
FAILED = .failures/$(1)$(ANOTHER).json

.PHONY: demo up check beside alone pages system again prepare lint test pythons bare kube faults bench soak starts wheel lock upgrade fuzz clean

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/.ready  ## the whole system on this machine, with real danmaku:  make demo ARGS="--duration 60"
	$(BIN)/liveroom demo $(ARGS)

up: $(VENV)/.ready  ## the services alone
	$(BIN)/liveroom up $(ARGS)

# Tests of the running system wait most of the time, so the others are run beside them, giving way to them; then those of the pages.
# A few that fail so are tried again alone, and named (tests/again.py).
RUNS = $(call FAILED,alone) $(call FAILED,pages) $(call FAILED,system)
check: prepare  ## everything CI runs
	@rm -f $(RUNS)
	@$(MAKE) --no-print-directory -k -j2 beside system || $(BIN)/python -m tests.again $(RUNS)

beside: $(VENV)/.ready
	@( nice -n 15 $(MAKE) --no-print-directory lint && { nice -n 15 $(MAKE) --no-print-directory alone ARGS=; alone=$$?; \
	  $(MAKE) --no-print-directory pages ARGS= && exit $$alone; } ) > .beside.log 2>&1 || { cat .beside.log; exit 1; }
	@cat .beside.log

alone: $(VENV)/.ready  ## what needs no running system
	@rm -f $(call FAILED,alone)
	@$(BIN)/python -m pytest -p tests.again --failures $(call FAILED,alone) -m "not $(SYSTEM) and not slow and not kube" -p no:cacheprovider $(ARGS)

pages: prepare  ## the pages and the JavaScript SDK, in Chromium
	@rm -f $(call FAILED,pages)
	@$(BIN)/python -m pytest -p tests.again --failures $(call FAILED,pages) -m "$(SYSTEM) and page and not slow and not kube" -p no:cacheprovider $(ARGS)

system: prepare
	@rm -f $(call FAILED,system)
	@$(BIN)/python -m pytest -p tests.again --failures $(call FAILED,system) -m "$(SYSTEM) and not page and not slow and not kube" $(ARGS)

again: $(VENV)/.ready  ## the few tests of `make alone` that failed, once more
	@$(BIN)/python -m tests.again $(call FAILED,alone)

prepare: $(VENV)/.ready  ## finds or brings what the tests drive: Chromium, Prometheus, kubectl, proxies, Kafka, a compiler of Java
	@$(BIN)/python -m tests.prepare

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: prepare
	$(BIN)/python -m pytest $(ARGS)

pythons: $(VENV)/.ready  ## what needs no running system, with every other Python that the project supports and this machine has
	@$(BIN)/python -m tests.prepare kubectl kafka
	@$(BIN)/python -m tests.pythons

bare:  ## as root: the README's commands on an empty machine:  make bare RUN="make test ARGS=tests/deploy" STRANGER=1 SUITE=trixie KEEP=1
	@$(PYTHON) -m tests.bare $(if $(RUN),--run "$$RUN") $(if $(STRANGER),--stranger) $(if $(SUITE),--suite $(SUITE)) $(if $(KEEP),--keep)

kube: $(VENV)/.ready  ## the Kubernetes driver and manifests on a real control plane, which Go builds first, once (minutes)
	@$(BIN)/python -m tests.prepare kubectl kafka
	@$(BIN)/python -m tests.kube.build
	$(BIN)/python -m pytest tests/kube -m kube -s $(ARGS)

faults: $(VENV)/.ready  ## every fault on the real Kafka, with random timing:  make faults ROUNDS=5
	LIVEROOM_FAULT_ROUNDS=$(or $(ROUNDS),3) $(BIN)/python -m pytest tests/faults -m "fault or slow" -s $(ARGS)

bench: $(VENV)/.ready  ## make bench ONLY=e2e; with fewer rounds:  make bench ONLY=pool ROUNDS=2
	$(BIN)/python -m tests.bench $(ONLY)

soak: $(VENV)/.ready  ## half an hour with churn: does any process grow?  make soak ARGS="--minutes 10"
	$(BIN)/python -m tests.soak $(ARGS)

starts: $(VENV)/.ready  ## 20 starts of every service while a broker is killed; goes on where it stopped:  make starts ARGS=--again
	$(BIN)/python -m tests.starts $(ARGS)

upgrade: $(VENV)/.ready  ## upgrades from the last release and back, with kill -9; goes on where it stopped:  make upgrade ROUNDS=10 ARGS=--again
	$(BIN)/python -m tests.upgrade --rounds $(or $(ROUNDS),10) $(ARGS)

fuzz: $(VENV)/.ready  ## foreign bytes, guided by coverage, against everything that reads them:  make fuzz ARGS="query uplink --seconds 60"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(ARGS)

wheel: $(VENV)/.ready  ## the sdist, and the wheel built from it, in dist/
	@$(BIN)/python -m build --no-isolation --outdir dist

lock: $(VENV)/.ready  ## the image's dependencies with their hashes, in deploy/locks; the newest ones:  make lock ARGS=--upgrade
	@$(BIN)/python -m deploy.lock $(ARGS)

clean:
	rm -rf dist .venv .venv-3.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
