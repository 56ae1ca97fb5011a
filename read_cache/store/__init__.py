"""The contract between the stages: a Zarr v3 store that is planned, filled part by part, and sealed.

    schema.py    every array: its axes, dtype and meaning (start here)
    layout.py    lengths -> parts: where each example lies, before the backbone is loaded
    manifest.py  the store's folder, its manifest, and its three states: absent, planned, sealed
    writer.py    plan, fill, seal
    reader.py    whole parts, in memory
    verify.py    reads everything and names what is missing, corrupt or non-finite

numpy and zarr only: no torch, no transformers.
"""
