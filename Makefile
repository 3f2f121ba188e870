PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test lint format same planted bench clean

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

.venv/run: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

.venv/dev: requirements-dev.txt requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	touch $@

same: .venv/dev  ## BEFORE=REVISION: do all algorithms still compute the same bits?
	$(BIN)/python tests/same_bits.py $(BEFORE)

planted: .venv/dev  ## plant bugs one by one, and tell which test notices each
	$(BIN)/python tests/planted.py

bench: .venv/dev  ## seconds that --plan foretells against those of the runs
	$(BIN)/python tests/bench.py

clean:  ## remove the environment and the caches, never data or saved runs
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
