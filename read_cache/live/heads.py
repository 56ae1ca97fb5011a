"""The heads of attached networks: the live backbone's LM head over a label trie, or a trained head with its weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from read_cache.backbones import Backbone
from read_cache.errors import UserError
from read_cache.networks.saved import TrainedNetwork
from read_cache.scoring.choose import make_head
from read_cache.scoring.heads import Head, HeadSettings
from read_cache.settings import parse
from read_cache.trie import LabelTrie


def load_heads(backbone: Backbone, trained: Mapping[str, TrainedNetwork]) -> dict[str, Head]:
    """Return the head of each network with a closed label set, by name. Raises UserError.

    Networks of the same labels share the LM head's rows.
    """
    rows: dict[LabelTrie, Tensor] = {}
    heads = {}
    for name, one in trained.items():
        record, network = one.record, one.network
        if not record.task.labels:
            continue
        trie = LabelTrie(record.label_ids) if record.label_ids else None
        if trie is not None and trie not in rows:
            rows[trie] = backbone.head_rows(torch.from_numpy(trie.tokens)).to(backbone.device)
        head = make_head(
            parse(HeadSettings, record.head, f"network {name}, head"),
            backbone.spec,
            record.task,
            trie,
            None if trie is None else rows[trie],
            stack=network.readout,
            needs_one=network.needs(network.config).trainable_head,
            device=backbone.device,
        )
        try:
            head.load_state_dict(dict(one.head_weights))
        except RuntimeError as error:
            raise UserError(f"network {name} has weights that do not fit its head: train it again") from error
        heads[name] = head.eval()
    return heads
