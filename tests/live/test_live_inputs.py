"""What is given to attached networks: tensors of another shape, dtype or vocabulary end in one message."""

import pytest
import torch

import read_cache
from read_cache.errors import UserError
from support.live import load_for, make_stores, network_of

IDS = torch.tensor([[5, 6, 1], [7, 1, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


@pytest.fixture(scope="module")
def attached(tmp_path_factory, rows_folder):
    stores = make_stores(tmp_path_factory.mktemp("inputs"), rows_folder, "words", "bert")
    return {name: read_cache.attach(load_for(store), {"mine": network_of(store)}) for name, store in stores.items()}


@pytest.mark.parametrize("name", ["words", "bert"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": IDS[0]}, r"input_ids: found \[3\]"),
        ({"input_ids": IDS[None]}, r"input_ids: found \[1, 2, 3\]"),
        ({"input_ids": IDS.float()}, "float32"),
        ({"input_ids": IDS.bool()}, "bool"),
        ({"input_ids": IDS.tolist()}, "list"),
        ({"input_ids": IDS[:0]}, "not empty"),
        ({"input_ids": IDS - 5}, "found -5"),
        ({"input_ids": IDS + 10**6}, "found 1000007"),
        ({"input_ids": IDS, "attention_mask": MASK[:, :2]}, r"attention_mask has shape \[2, 2\], expected \[2, 3\]"),
        ({"input_ids": IDS, "token_type_ids": MASK[0]}, r"token_type_ids has shape \[3\]"),
    ],
)
def test_wrong_tensors_are_refused(attached, name, given, message) -> None:
    with pytest.raises(UserError, match=message):
        attached[name](**given)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("words", {"decoder_input_ids": IDS[0]}, r"decoder_input_ids: found \[3\]"),
        ("words", {"decoder_input_ids": IDS.float()}, "float32"),
        ("words", {"decoder_input_ids": IDS[:1]}, "1 rows, expected 2"),
        ("words", {"token_type_ids": MASK}, "takes none"),
        ("bert", {"decoder_input_ids": IDS}, "has one stack"),
        ("bert", {"attention_mask": MASK.flip(1)}, "on the right"),
    ],
)
def test_what_the_family_does_not_take_is_refused(attached, name, given, message) -> None:
    with pytest.raises(UserError, match=message):
        attached[name](IDS, **given)


def test_a_berts_token_types_are_used(attached) -> None:
    one, other = (attached["bert"](IDS, MASK, token_type_ids=types)["mine"] for types in (None, MASK))
    assert not torch.equal(one, other)
    assert torch.equal(one, attached["bert"](IDS, MASK, token_type_ids=torch.zeros_like(MASK))["mine"])
    assert one.shape == (2, 3, 32)


@pytest.mark.parametrize("name", ["words", "bert"])
def test_integers_may_be_of_any_width(attached, name) -> None:
    assert torch.equal(attached[name](IDS.to(torch.uint8), MASK)["mine"], attached[name](IDS, MASK)["mine"])
