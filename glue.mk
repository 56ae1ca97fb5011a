# The paper's GLUE as file rules: STORES/TASK is extracted, RUNS/TASK/results.json is what the recipe found on it, the
# tables are made of those. What is done is not done again, and a stop goes on. A store, recipe or option that changed
# asks the stages of its tasks again, and they train what is new or say what differs.
#
#   make glue MODEL=t5-base DEVICE=cuda           Table 1: seven tasks, recipe `paper`; make glue-qnli is one of them
#   make glue-large DEVICE=cuda                   the same on T5-large
#   make glue-untied MODEL=t5-base DEVICE=cuda    Table 2: the same without recurrency
#   make table1 table2 MODEL=t5-base              the tables of the runs that are there
#   make glue-sample [GLUE=FOLDER]                both tables of the bundled backbone, on the sample tasks or GLUE rows
#
# EXTRACT and TRAIN are more options of the two stages: EXTRACT="--dtype int8" TRAIN="--memory 32". GLUE=FOLDER takes
# rows from FOLDER/TASK instead of the hub. STREAM=1 removes each store once its networks are trained, one task after
# the other, and does not miss it later; Table 2 then extracts again. RECIPE is a bundled recipe or a TOML file.

SAMPLE :=
ROWS := $(if $(filter-out undefined file,$(origin GLUE)),$(GLUE))

ifneq ($(filter glue-sample,$(MAKECMDGOALS)),)
MODEL ?= t5-tiny-wiki
RECIPE ?= sample
UNTIED ?= --recipe $(RECIPE) --untied --cell gru
SAMPLE := --max-examples 10000
ifneq ($(ROWS),)
TASKS ?= $(notdir $(patsubst %/,%,$(wildcard $(patsubst %,$(ROWS)/%/,cola mnli mrpc qnli sst2 stsb))))
STORES ?= stores/glue-sample
RUNS ?= runs/glue-sample
$(if $(TASKS),,$(error GLUE=$(ROWS) holds no folder of a task: expected some of cola, mnli, mrpc, qnli, sst2, stsb))
else
TASKS ?= sample-acceptability sample-sentiment sample-similarity sample-entailment
STORES ?= stores/sample-tasks
RUNS ?= runs/sample-tasks
endif
endif

MODEL ?= t5-base
TASKS ?= cola mnli qnli mrpc qqp sst2 stsb
STORES ?= stores/$(notdir $(MODEL:%/=%))
RUNS ?= runs/$(notdir $(MODEL:%/=%))
RECIPE ?= paper
UNTIED ?= --recipe table2
DEVICE ?= cpu

MANIFESTS := $(TASKS:%=$(STORES)/%/manifest.json)
FOUND := $(TASKS:%=$(RUNS)/%/results.json)
FOUND_UNTIED := $(TASKS:%=$(RUNS)/untied/%/results.json)

ifneq ($(filter-out $(wildcard $(RECIPE)),$(filter %.toml,$(RECIPE))),)
$(error RECIPE=$(RECIPE) is not there: expected a TOML file, or the name of a bundled recipe)
endif

.PHONY: glue glue-large glue-untied glue-sample table1 table2 again $(TASKS:%=glue-%)

glue: $(RUNS)/table1.md
glue-untied: $(RUNS)/table2.md
glue-sample: $(RUNS)/table1.md $(RUNS)/table2.md
$(TASKS:%=glue-%): glue-%: $(RUNS)/%/results.json
glue-large:
	$(MAKE) glue MODEL=t5-large

$(RUNS)/table1.md: $(FOUND) | $(READY)
	$(BIN)/read-cache tables table1 $(FOUND) --out $(@D)
$(RUNS)/table2.md: $(FOUND) $(FOUND_UNTIED) | $(READY)
	$(BIN)/read-cache tables table2 $(FOUND) $(FOUND_UNTIED) --out $(@D)
table1: | $(READY)
	$(BIN)/read-cache tables $@ $(wildcard $(FOUND)) --out $(RUNS)
table2: | $(READY)
	$(BIN)/read-cache tables $@ $(wildcard $(FOUND) $(FOUND_UNTIED)) --out $(RUNS)

extraction = --model $(MODEL) $(ROWS:%=--dataset %/$(1)) $(SAMPLE) $(EXTRACT)
recipe_file = $(wildcard $(filter %.toml,$(1)) $(patsubst %,read_cache/train/recipes/%.toml,$(1)))

$(MANIFESTS): $(STORES)/%/manifest.json: $(wildcard $(MODEL)/config.json $(MODEL)/*.safetensors) | $(READY)
	$(if $(STREAM),rm -rf $(STORES)/*.removed)
	$(BIN)/read-cache extract $(call extraction,$*) --task $* --store $(@D) --device $(DEVICE)

define train_task
	mkdir -p $(@D)
	$(BIN)/read-cache train --store $(<D) $(RECIPE_OF) $(TRAIN) --out $(@D) --device $(DEVICE) --json > $(@D)/unfinished
	$(BIN)/read-cache report $(@D)
	mv $(@D)/unfinished $@
	echo '$(call asked,$(RECIPE_OF))' > $(@D)/asked
	$(if $(STREAM),mv $(<D) $(<D).removed && rm -r $(<D).removed)
endef

$(FOUND): RECIPE_OF = --recipe $(RECIPE)
$(FOUND): $(RUNS)/%/results.json: $(STORES)/%/manifest.json $(call recipe_file,$(RECIPE)) | $(READY)
	$(train_task)
$(FOUND_UNTIED): RECIPE_OF = $(UNTIED)
$(FOUND_UNTIED): $(RUNS)/untied/%/results.json: $(STORES)/%/manifest.json $(call recipe_file,$(UNTIED)) | $(READY)
	$(train_task)

# RUN/asked holds the options that RUN/results.json was made with, but for those that change no result.
asked = $(strip $(call extraction,.) $(1) $(TRAIN))
others = $(if $(1),$(shell grep -sLFxe '$(call asked,$(2))' $(1:%/results.json=%/asked) < /dev/null))
CHANGED := $(patsubst %/asked,%,$(call others,$(FOUND),--recipe $(RECIPE)) $(call others,$(FOUND_UNTIED),$(UNTIED)))
$(CHANGED:%=%/results.json) $(patsubst %,$(STORES)/%/manifest.json,$(notdir $(CHANGED))): again

.PRECIOUS: $(MANIFESTS)
ifdef STREAM
.SECONDARY: $(MANIFESTS)
.NOTPARALLEL:
endif
