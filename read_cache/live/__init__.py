"""Networks beside a live backbone: for text that no store holds. May import transformers, as extraction/ may.

attach.py      a model that the user has loaded, checked, and the networks to run beside it
attached.py    one pass of the backbone, then every network
inputs.py      token ids, masks and rows, checked; the decoder positions of label tries
formats.py     the backbone's outputs in the format of a store: the batch that networks read
heads.py       the networks' heads, and predictions from their scores
generation.py  the backbone's own `generate` with a network's correction
predict.py     lines of text to predictions
"""
