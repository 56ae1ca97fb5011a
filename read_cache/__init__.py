"""read-cache: run a frozen T5 once, keep what its layers said, train READ side networks from that alone.

    text ──► extract/ (the backbone, once) ──► store/ (Zarr) ──► train/ (side networks, many) ──► networks on disk
                                                   └──► evaluate.py          predict.py: text ──► one pass ──► networks

Three rooms, and who may import whom (checked by the linter and by the tests):

    extract/   may import transformers and datasets; knows the store
    store/     the contract between the stages: numpy and zarr, no torch
    train/     torch and the store; never extract, transformers or datasets
"""

from importlib.metadata import version

__version__ = version("read-cache")
