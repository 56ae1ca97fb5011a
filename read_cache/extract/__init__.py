"""Stage one: the frozen backbone, once over every row. The only room that imports transformers and datasets.

config.py      the settings of a store
hub.py         a repository's files at one commit, and the hub's errors in one sentence
rows.py        the task's rows: from the hub, from a folder, or bundled
splits.py      which rows are training, validation and test rows, by the paper's protocol
encode.py      rows -> token ids, labels and decoder nodes
plan.py        the order of the examples, the plan arrays and the manifest
backbone.py    any T5: load, digest, tokenizer, head
forward.py     a batch of examples -> every layer's states and attention weights, ragged
calibrate.py   what int8 states and principal components are stored by
    parts.py       one part: batches of like length, into the bytes of its files
    extraction.py  plan -> fill -> seal
"""
