"""Frozen models: found, checked, loaded from safetensors, and run. May import transformers.

base.py      the interface of a backbone, and the tensors that go in and come out
tokens.py    padded token batches, from sequences or from a store's plan arrays; a tree of positions as one sequence
families.py  the registry of families, and `open_backbone`
t5.py        T5, mT5, UMT5, ByT5, FLAN-T5
bert.py      BERT, RoBERTa, MiniLM
files.py     a model's folder, or that of a Python package: found, checked, digested, loaded
"""

from read_cache.backbones.base import Backbone, Source, StackTrace, Trace
from read_cache.backbones.families import FAMILIES, open_backbone
from read_cache.backbones.tokens import StackTokens, TokenBatch

__all__ = ["FAMILIES", "Backbone", "Source", "StackTokens", "StackTrace", "TokenBatch", "Trace", "open_backbone"]
