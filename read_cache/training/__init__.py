"""Stage two: train networks, most often from a store alone. No backbone, no transformers, no datasets.

network_config.py  the configuration of one network
recipe.py          settings, grids and searches, from TOML files or arguments; recipes/ are bundled
run.py             networks in, saved networks and results.jsonl out; the grid, then the best with further seeds
from_store.py      makes side networks, and evaluates saved ones
loop.py            the one training loop
learner.py         one network in training; stack.py lets networks of one shape step together
checkpoint.py      the state between two steps, in one file
results.py         results.jsonl: one line a network
"""
