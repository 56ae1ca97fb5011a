"""Networks beside a live backbone: for text that no store holds. May import transformers, as extraction/ may.

attach.py       networks by name, and the model they are attached to
adopt.py        a model that the user has loaded, as a Backbone
formats.py      the backbone's outputs in the format of a store
label_tree.py   the decoder positions of label tries
attached.py     one pass of the backbone, then every network
generation.py   the backbone's own `generate` with a network's correction
lines.py        lines of text as rows of a task
predict.py      lines of text to predictions
predictions.py  a file of predictions that resumes
"""
