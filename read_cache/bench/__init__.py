"""`read-cache bench`: what both stages cost, each against the plain thing that bounds it. Parts are in `run.py`.

measure.py    sides of a comparison in turn, and the spread of their ratio over repeats
case.py       the case: a T5's shape with random weights, real rows' lengths, stores of random activations
steps.py      networks and batches of a store, ready to step
"""
