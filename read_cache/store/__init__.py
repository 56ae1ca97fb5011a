"""The contract between the stages: a Zarr v3 store that is planned, filled part by part, and sealed.

    schema.py    every array: its axes, dtype and meaning (start here)
    layout.py    lengths -> parts: where each example lies, before the backbone is loaded
    manifest.py  the store's folder, its manifest, and its three states: absent, planned, sealed
    shard.py     one part of one array as one file
    writer.py    plan, fill, seal
    reader.py    whole parts: mapped, checked, viewed
    verify.py    reads everything and names what is missing, corrupt or non-finite
    calibration.py  what makes states of int8 values or components
    files.py     a folder, or any URL that fsspec opens (remote.py)
    lock.py      who fills a store, and which parts are whose

numpy and zarr only: no torch, no transformers.
"""
