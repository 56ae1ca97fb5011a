"""Stage two: train side networks from a store alone. No backbone, no transformers, no datasets.

    order.py    the order of an epoch: a pure function of (seed, epoch)
    batches.py  parts -> padded, normalised batches
    head.py     corrected states -> logits, loss, label probabilities
    grid.py     repeated options -> one configuration a network
    trainer.py  one read, many networks: every network takes its step on every batch
    run.py      stores in, networks and results.jsonl out
"""
