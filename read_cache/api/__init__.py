"""The verbs of read-cache in Python. The command line parses, calls one of them and prints.

extraction.py  extract
training.py    train, finetune
ensemble.py    ensemble
networks.py    evaluate, open_store, load_network
prediction.py  predict, predict_lines, predict_file
table.py       what they return, for notebooks

Each imports what it needs when it is called: `import read_cache` alone loads neither torch nor transformers.
"""

from read_cache.api.ensemble import ensemble
from read_cache.api.extraction import ExtractWatch, extract
from read_cache.api.networks import evaluate, load_network, open_store
from read_cache.api.prediction import PredictWatch, predict, predict_file, predict_lines
from read_cache.api.training import Results, TrainWatch, finetune, train

__all__ = [
    "ExtractWatch",
    "PredictWatch",
    "Results",
    "TrainWatch",
    "ensemble",
    "evaluate",
    "extract",
    "finetune",
    "load_network",
    "open_store",
    "predict",
    "predict_file",
    "predict_lines",
    "train",
]
