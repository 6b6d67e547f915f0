# Everything is set up on first use in .venv, from the pinned requirements with hashes.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEV    := $(VENV)/.installed-dev

.PHONY: install man docs demo test test-twisted interop fuzz check static format lint types contracts bench bench-quick bench-why bench-page bench-watched bench-idle bench-dead-mx bench-dead-mx-quick bench-hostile bench-hostile-quick crash crash-quick simulate simulate-quick simulate-long system lock clean

install: $(STAMP)
demo: $(STAMP)
	$(BIN)/smarthost demo
test: $(DEV)
	$(BIN)/pytest -n auto -q
# Twisted's own tests of its relay manager, against ours and beside the original.
test-twisted: $(DEV)
	$(BIN)/python -m tests.compat.twisted_suite
# smarthost beside other people's programs, which it installs first; with CI set, one that is missing is a failure.
interop: $(DEV)
	tools/system-packages
	CI=true $(BIN)/pytest -m interop tests/interop
# Mutated inputs for every parser; `.venv/bin/python -m tests.fuzz --seed N` tries others.
fuzz: $(DEV)
	$(BIN)/python -m tests.fuzz
check: static test
static: format lint types contracts
format: $(DEV)
	$(BIN)/ruff format --check .
lint: $(DEV)
	$(BIN)/ruff check .
types: $(DEV)
	$(BIN)/mypy
contracts: $(DEV)
	$(BIN)/lint-imports
bench: $(DEV)
	$(BIN)/python -m bench
bench-quick: $(DEV)
	$(BIN)/python -m bench --quick --no-gate
bench-why: $(DEV)
	$(BIN)/python -m bench.why
bench-page: $(DEV)
	$(BIN)/python -m bench.page
bench-watched: $(DEV)
	$(BIN)/python -m bench.watched
bench-idle: $(DEV)
	$(BIN)/python -m bench.idle
bench-dead-mx: $(DEV)
	$(BIN)/python -m bench.dead_mx
bench-dead-mx-quick: $(DEV)
	$(BIN)/python -m bench.dead_mx --quick --no-gate
bench-hostile: $(DEV)
	$(BIN)/python -m bench.hostile
bench-hostile-quick: $(DEV)
	$(BIN)/python -m bench.hostile --quick
# What was acknowledged arrives, whatever is done to the relay: kill -9, power cuts, errors of the disk, too little of
# anything. As root, some four hours; `.venv/bin/python -m crash --only kill` runs one suite.
crash: $(DEV)
	tools/system-packages
	$(BIN)/python -m crash
crash-quick: $(DEV)
	$(BIN)/python -m crash --quick
# Days of random mail and faults in seconds, on virtual time: make simulate SEED=7 HOURS=48
simulate: $(DEV)
	$(BIN)/python -m simulate $(if $(SEED),--seed $(SEED)) $(if $(HOURS),--hours $(HOURS))
simulate-quick: $(DEV)
	$(BIN)/python -m simulate --seeds 1..50 --hours 16 --quiet --json
simulate-long: $(DEV)
	$(BIN)/python -m simulate --seeds 1..1000 --hours 24 --quiet --json
# Man pages into build/man, from the command line itself and from docs/.
man: $(STAMP)
	$(BIN)/python -m smarthost.ops.manual docs build/man
# The documentation as a site, build/docs/index.html, with the reference made of the code; a warning is an error.
docs: $(DEV)
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs
# Postfix (its load tools, and a server to compare with), swaks, strace, unbound: as root, with apt.
system:
	tools/system-packages

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Errors alone are told: its warnings are about the machine (who is root, which mirror is away).
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

$(STAMP): requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV): a minute or so"
	@$(PIP) --require-hashes -r requirements.txt
	@$(PIP) --no-deps -e .
	@touch $@
	@echo "$$($(BIN)/smarthost --version) is in $(BIN); next: $(BIN)/smarthost serve --state-dir ./state --hostname relay.example.org"

$(DEV): requirements-dev.txt $(STAMP)
	@$(PIP) --require-hashes -r requirements-dev.txt
	@touch $@

# The lock: pinned versions with hashes, naming no index host. Needs uv (pip install uv).
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q pyproject.toml --extra http --extra rich -o requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q pyproject.toml --extra http --extra rich --extra twisted --group dev -o requirements-dev.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/out
