# `make demo` and `make test` each do all the set-up they need on a fresh machine: a virtual environment in .venv, with the
# versions of constraints.txt. torch comes first and pinned, so that nothing later brings another build of it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# nothing below may need a network after installation
export HF_HUB_OFFLINE = 1

.PHONY: demo test test-lowest check bench bench-full clean

$(VENV)/python.stamp: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0 setuptools wheel
	touch $@

$(VENV)/demo.stamp: $(VENV)/python.stamp pyproject.toml
	$(PIP) --no-build-isolation -e '.[demo]'
	touch $@

$(VENV)/test.stamp: $(VENV)/demo.stamp
	$(PIP) --no-build-isolation -e '.[test,eval]'
	touch $@

demo: $(VENV)/demo.stamp
	$(BIN)/hf-slug demo

test: $(VENV)/test.stamp check
	$(BIN)/python -m pytest -n 2 --dist worksteal
	$(BIN)/python tests/peft_conformance/run.py

check: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the oldest versions that pyproject.toml allows
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt torch setuptools wheel
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt --no-build-isolation -e '.[test]'
	$(VENV)-lowest/bin/python -m pytest -n 2 --dist worksteal
	$(VENV)-lowest/bin/python tests/peft_conformance/run.py

# some minutes: that the benchmarks run, and what they look like; in files of their own, *_quick.md
# (the photographs, which come last, are loaded by name where HF_SLUG_DATA names no folder of them)
bench bench-full: export HF_HUB_OFFLINE = $(if $(HF_SLUG_DATA),1,0)
bench: $(VENV)/test.stamp
	$(BIN)/python benchmarks/zoo_models.py --quick
	$(BIN)/python benchmarks/zoo_concepts.py --quick
	$(BIN)/python benchmarks/zoo_hosts.py --quick
	$(BIN)/python benchmarks/zoo_answers.py --quick
	$(BIN)/python benchmarks/zoo_canvas.py --quick
	$(BIN)/python benchmarks/zoo_seconds.py --quick
	$(BIN)/python benchmarks/speed.py --quick
	$(BIN)/python benchmarks/loading.py --quick
	$(BIN)/python benchmarks/train_photo_clip.py --steps 500 --output .cache/photo-clip-quick/model
	$(BIN)/python benchmarks/photo_tables.py --quick --model .cache/photo-clip-quick/model
	$(BIN)/python benchmarks/photo_stacks.py --quick --model .cache/photo-clip-quick/model
	$(BIN)/python benchmarks/photo_unlisted.py --quick --model .cache/photo-clip-quick/model
	$(BIN)/python benchmarks/photo_ablations.py --quick --model .cache/photo-clip-quick/model

# on a CLIP that nothing was built on, whose names share their tokens: ten people whom the tables above show in stacks alone, and their seven objects
OTHERS := raskin thalor ulvie brisca nemoto maldin sorrel joveth velun kezia cat deer dog frog horse ship truck

# hours: every table; each goes on where it was stopped, so what lies in benchmarks/results is not measured again unless removed
bench-full: $(VENV)/test.stamp
	$(BIN)/python benchmarks/zoo_models.py
	$(BIN)/python benchmarks/zoo_concepts.py
	$(BIN)/python benchmarks/zoo_hosts.py
	$(BIN)/python benchmarks/zoo_answers.py
	$(BIN)/python benchmarks/zoo_canvas.py
	$(BIN)/python benchmarks/zoo_seconds.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/train_photo_clip.py
	$(BIN)/python benchmarks/photo_scores.py
	$(BIN)/python benchmarks/photo_tables.py
	$(BIN)/python benchmarks/photo_stacks.py
	$(BIN)/python benchmarks/photo_unlisted.py
	$(BIN)/python benchmarks/train_photo_clip.py --threads 1 --seed 1 --spell-names --output .cache/photo-clip-other/model
	$(BIN)/python benchmarks/photo_tables.py --name photo_tables_other --model .cache/photo-clip-other/model \
		--methods SLUG "SLUG, plain gradient" --concepts $(OTHERS)
	$(BIN)/python benchmarks/photo_ablations.py
	-$(BIN)/python benchmarks/eval_unlearn_zoo.py  # eval-unlearn needs Python 3.11 or later
	$(BIN)/python benchmarks/readme.py

clean:
	rm -rf $(VENV) $(VENV)-lowest hf-slug-demo build *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache
