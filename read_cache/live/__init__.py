"""Networks beside a live backbone: for text that no store holds. May import transformers, as extract/ may.

attach.py       networks by name, and the model they go beside
adopt.py        a model that someone else has loaded, as a Backbone
forms.py        the backbone's outputs in the form of a store
tree.py         the decoder prefixes of label tries
attached.py     one pass of the backbone, then every network on what it said
generation.py   the backbone's own `generate` with a network's correction
"""
