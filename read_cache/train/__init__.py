"""Stage two: train side networks from a store alone. No backbone, no transformers, no datasets.

order.py    the order of an epoch: a pure function of (seed, epoch)
batches.py  parts -> padded, normalised batches
statistics.py  channel means and deviations of the states, from one short read
head.py     corrected states -> logits, loss, label probabilities
grid.py     repeated options -> one configuration a network
learner.py  one network in training: weights, optimiser, random state, best epoch
checkpoint.py  the state after an epoch, in one file
results.py  results.jsonl: one line a network
run.py      stores in, networks and results.jsonl out
"""
