"""The verbs of read-cache in Python. The command line parses, calls one of them and prints.

extraction.py  extract
training.py    train, finetune
networks.py    evaluate, predict, open_store, load_network
table.py       what they return, for notebooks

Each imports what it needs when it is called: `import read_cache` alone loads neither torch nor transformers.
"""

from read_cache.api.extraction import ExtractWatch, extract
from read_cache.api.networks import evaluate, load_network, open_store, predict
from read_cache.api.training import Results, TrainWatch, finetune, train

__all__ = [
    "ExtractWatch",
    "Results",
    "TrainWatch",
    "evaluate",
    "extract",
    "finetune",
    "load_network",
    "open_store",
    "predict",
    "train",
]
