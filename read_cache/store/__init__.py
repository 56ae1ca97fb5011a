"""The contract between the stages: a Zarr v3 store that is planned, filled part by part, and sealed.

    schema.py        every array: its axes, dtype and meaning (start here)
    spec.py          a backbone's stacks and their shapes
    layout.py        lengths -> parts: where each example lies, before the backbone is loaded
    manifest.py      what decides a store's bytes, and its two digests
    folder.py        a store's folder and its states: absent, begun, planned, sealed
    shard.py         one part of one array as one file
    writer.py        plan, fill, seal
    reader.py        whole parts: read, checked, viewed
    push.py          copies a sealed store to another folder or URL, such as a dataset of the hub
    verify.py        reads everything and names what is missing, corrupt or non-finite
    files.py         a folder, or any URL that fsspec opens (remote.py)
    lock.py          locks of a store that is being filled

numpy and zarr only: no torch, no transformers.
"""
