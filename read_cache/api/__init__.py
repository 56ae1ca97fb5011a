"""The Python functions of read-cache. The command line parses arguments, calls one of them and prints its result.

extraction.py  extract
training.py    train, finetune
networks.py    evaluate, ensemble
prediction.py  predict, predict_lines
table.py       RecordsTable, which they return

`compare` is in read_cache.comparison. Nothing is imported here: training.py must run without transformers.
"""
