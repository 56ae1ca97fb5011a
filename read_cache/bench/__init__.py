"""`read-cache bench`: what the two stages cost, each against the plain thing it must not be slower than.

measure.py    two sides in turn, and how far their ratio spreads
machine.py    the machine and the versions a figure was made with
case.py       the standard case: a T5's shape with random weights, and real rows' lengths
synthetic.py  a store of that shape with random activations, written without the backbone
extract.py    filling a store against the bare forward pass
read.py       a shuffled epoch against a memory map and plain zarr; peak memory
memory.py     the process whose peak memory is measured
train.py      training from the store against training from tensors in memory
networks.py   many networks in one pass against as many passes
live.py       an epoch from the store against one with the backbone in the loop, or with LoRA; and their memory
attach.py     networks beside a live backbone against the backbone alone, and seven against one
size.py       bytes a token of every form
plan.py       what `read-cache plan` says against what then happens
stages.py     a stage in a process of its own: its seconds and its peak memory

By themselves, as `python -m read_cache.bench.NAME`:
finetune.py   full fine-tuning on the rows of a store, with finetune_model.py; comparison.py: READ beside it

It may import everything but the command line; only the command line may import it.
"""
