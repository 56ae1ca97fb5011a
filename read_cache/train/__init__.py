"""Stage two: train side networks from a store alone. No backbone, no transformers, no datasets.

order.py    the order of an epoch: a pure function of (seed, epoch)
tiers.py    which splits are kept, on the device or in memory, and which are streamed
batches.py  parts -> padded, normalised batches
statistics.py  channel means and deviations of the states, from one short read
head.py     corrected states -> logits, loss, label probabilities
grid.py     repeated options -> one configuration a network
recipe.py   what to train on each task, and how to search; recipe_file.py reads it from TOML, recipes/ are bundled
search.py   the grid or an Optuna study, which networks are dropped early, and final seeds
learner.py  one network in training: weights, optimiser, random state, best epoch
checkpoint.py  the state after an epoch, in one file
results.py  results.jsonl: one line a network
run.py      stores in, networks and results.jsonl out
"""
