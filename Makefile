PYTHON ?= python3
BIN := .venv/bin

PROBLEMS := few_examples strong_skew mild_skew two_classes many_clients writers feature_shift
PEERS := fluke pfl fedlab flower blazefl

.PHONY: run test lint format docs same planted hard table bench bench-peers cuda clean

run: .venv/run  ## the main job: five algorithms on one split of real digits
	$(BIN)/python run.py cfkd fd fedavg independent centralized --dataset digits --n_clients 5 --partition lda --alpha 0.5 --lr 3e-3 --rounds 60

test: .venv/dev lint  ## lint and every test
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/docs  ## the pages, the notebooks and the API as a site, build/site
	$(BIN)/python -m mkdocs build --strict

.venv/run: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

.venv/dev: requirements-dev.txt requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	touch $@

.venv/docs: requirements-docs.txt requirements-dev.txt requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements-docs.txt
	touch $@

same: .venv/dev  ## BEFORE=REVISION: do all algorithms still compute the same bits?
	$(BIN)/python checks/same_bits.py $(BEFORE)

planted: .venv/dev  ## plant bugs one by one, and tell which test notices each
	$(BIN)/python checks/planted.py

hard: .venv/dev  ## kill, corrupt, starve and attack it: what docs/reliability.md promises, in less than an hour
	$(BIN)/python -m checks.hard

table: .venv/run  ## the benchmark of papers/benchmark, problem by problem, in hours; SMALL=1: the first problem alone
	for problem in $(if $(SMALL),$(firstword $(PROBLEMS)),$(PROBLEMS)); do \
		$(BIN)/python run.py --study papers/benchmark/$$problem.toml $(FLAGS) && \
		cp saves/$$problem/tuning.csv papers/benchmark/$$problem.csv && \
		$(BIN)/python -m papers benchmark/$$problem --record --export_dir saves/$$problem || exit 1; \
	done

bench: .venv/dev  ## seconds beside those of bare loops; what --plan foretells; many runs side by side
	$(BIN)/python -m checks.bench

bench-peers: .venv/dev $(PEERS:%=.venv-peers/%/installed)  ## seconds beside those of other systems, each in its own environment
	$(BIN)/python -m checks.bench peers

.venv-peers/%/installed: checks/bench/peers/%.txt  # what cannot be installed does not take part
	$(PYTHON) -m venv .venv-peers/$*
	-.venv-peers/$*/bin/pip install --ignore-requires-python --requirement $< --log .venv-peers/$*.log --quiet && touch $@

cuda: .venv/dev  ## where there is a CUDA device: algorithms against the processor, small tables, seconds beside bare loops
	$(BIN)/python checks/on_cuda.py
	$(BIN)/python -m checks.bench cuda

clean:  ## remove the environments and the caches, never data or saved runs
	rm -rf .venv .venv-peers .pytest_cache .ruff_cache .hypothesis
