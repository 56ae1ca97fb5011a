# Every target sets itself up: a virtual environment in .venv, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
TYPED := build/typed/read_cache
OUT ?= read-cache-demo

.PHONY: demo test test-slow check backbone samples real-rows forms wheel clean

demo: $(READY)  ## The main job on the bundled backbone and two sample tasks.
	$(BIN)/read-cache demo --out $(OUT)

test: $(READY)  ## Everything but the slow tests.
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(READY)  ## Minutes of kills, flips and real rows.
	$(BIN)/python -m pytest -m slow

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

GLUE ?= ../shared/glue

real-rows: $(READY)  ## READ with both first states beside a probe; GLUE is a folder of cola, mrpc, stsb and sst2.
	for task in cola mrpc stsb; do \
	  $(BIN)/read-cache extract --model t5-tiny-wiki --task $$task --dataset $(GLUE)/$$task \
	    --store stores/real/$$task || exit; done
	$(BIN)/read-cache extract --model t5-tiny-wiki --task sst2 --dataset $(GLUE)/sst2 --max-examples 10000 \
	  --store stores/real/sst2
	$(BIN)/read-cache train --store stores/real --out runs/real --cell gru --initial-state zero \
	  --initial-state embeddings --batch-size 64 --lr 0.001 --seed 0 --seed 1 --seed 2 --epochs 8 --patience 4
	$(BIN)/python -m read_cache.cli.table stores/real runs/real

# Each form's settings; a name is a folder. One network, three seeds.
FORM_fp32 := --dtype fp32
FORM_bf16 := --dtype bf16
FORM_int8 := --dtype int8
FORM_int8-uint8 := --dtype int8 --attention-dtype uint8
FORM_rank64 := --dtype int8 --attention-dtype uint8 --rank 64
FORM_rank32 := --dtype int8 --attention-dtype uint8 --rank 32
FORMS := fp32 bf16 int8 int8-uint8 rank64 rank32
FORM_TASKS := cola mrpc stsb sst2
FORM_STORES := $(foreach form,$(FORMS),$(FORM_TASKS:%=stores/forms/$(form)/%))

forms: $(FORM_STORES:%=%/manifest.json)  ## Bytes a token against metric, by form; GLUE as above.
	$(BIN)/read-cache train --store stores/forms --out runs/forms --cell rnn --embedding-gain 4 --batch-size 64 \
	  --lr 0.001 --seed 0 --seed 1 --seed 2 --epochs 6
	$(BIN)/python -m read_cache.cli.forms stores/forms runs/forms

stores/forms/%/manifest.json: $(READY)
	$(BIN)/read-cache extract --model t5-tiny-wiki --task $(*F) --dataset $(GLUE)/$(*F) $(FORM_$(*D)) \
	  $(if $(filter sst2,$(*F)),--max-examples 10000) --store stores/forms/$*

include glue.mk

wheel: $(READY)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist *.egg-info stores runs $(OUT)
