"""The Python functions of read-cache. The command line parses arguments, calls one of them and prints its result.

extraction.py  extract
training.py    train, finetune
networks.py    evaluate, ensemble
prediction.py  predict, predict_lines
table.py       RecordsTable, which they return

`compare` is in read_cache.comparison. Each function imports what it needs when it is called: `import read_cache` alone
loads neither torch nor transformers.
"""

from read_cache.api.extraction import extract
from read_cache.api.networks import ensemble, evaluate
from read_cache.api.prediction import predict, predict_lines
from read_cache.api.training import Results, finetune, train
from read_cache.watch import Watch

__all__ = ["Results", "Watch", "ensemble", "evaluate", "extract", "finetune", "predict", "predict_lines", "train"]
