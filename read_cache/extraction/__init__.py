"""Stage one: the frozen backbone runs once over every row. Imports transformers (through backbones) and datasets.

rows.py        the task's rows, from the hub, from a folder or bundled, and their splits by the paper's protocol
encode.py      rows -> tokens by stack, and labels with the decoder nodes at which they are scored
plan.py        the order of the examples, the plan arrays and the manifest
stored.py      a stack's outputs in the format of a store
calibrate.py   int8 and low-rank formats: fitted, and applied
part.py        one part: batches of like length through the backbone, into the bytes of the part's files
fill.py        plan, fill, seal
"""
