"""Stage one: the frozen backbone runs once over every row. Imports transformers (through backbones) and datasets.

rows.py        the task's rows: from the hub, from a folder, or bundled
splits.py      training, validation and test rows by the paper's protocol
labels.py      a row's label, score or target, and the decoder nodes at which it is scored
encode.py      rows -> tokens by stack, and labels
plan.py        the order of the examples, the plan arrays and the manifest
calibrate.py   int8 and low-rank formats: fitted, and applied
stored.py      a stack's outputs in the format of a store
part.py        one part: batches of like length through the backbone, into the bytes of the part's files
fill.py        plan, fill, seal
"""
