"""Statistics of activations: those that numpy computes of the stored arrays, in every format of a store."""

from pathlib import Path

import numpy as np
import pytest

from read_cache.errors import UserError
from read_cache.report.inspection import (
    ENTROPY,
    LENGTHS,
    NORMS,
    SIMILARITY,
    activations_figure,
    debiased_cka,
    inspect,
)
from read_cache.store.reader import StoreReader
from support.backbones import decoder_folder
from support.stores import make_store, plan_values, stored_values

ROWS = 21
"""More than a batch, and fewer than the rows."""


def floats(values: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bits."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def states_of(store: StoreReader, stack: str) -> list[np.ndarray]:
    """[states, positions, width] float64 of each row of the sample of a bf16 store."""
    return [floats(stored_values(store, "train", row, f"{stack}/hidden")).astype(float) for row in range(ROWS)]


def normalised(states: np.ndarray) -> np.ndarray:
    return states / np.sqrt((states**2).mean(-1, keepdims=True) + 1e-6)


def entropy(weights: np.ndarray) -> float:
    """Of one distribution over more than one position, from 0 to 1."""
    p = weights.astype(float) / weights.astype(float).sum()
    return -sum(share * np.log(share) for share in p if share) / np.log(len(p))


def quantiles(values: list[float]) -> np.ndarray:
    return np.quantile(values, (0.1, 0.5, 0.9))


def test_norms_and_entropies_of_a_bf16_store(words_store: Path) -> None:
    store = StoreReader(words_store)
    found = inspect(store, sample_rows=ROWS)
    for stack in ("encoder", "decoder"):
        norms = np.concatenate([np.linalg.norm(states, axis=-1) for states in states_of(store, stack)], axis=1)
        expected = np.quantile(norms, (0.1, 0.5, 0.9), axis=1).T
        np.testing.assert_allclose(found.norms.loc[stack], expected, rtol=1e-5)
    for layer in (1, 2):
        own, cross = [], []
        for row in range(ROWS):
            n = store.split("train").plan["encoder/length"][row]
            own += [*stored_values(store, "train", row, "encoder/self_attention")[layer - 1].reshape(n, n)]
            cross += [*stored_values(store, "train", row, "decoder/cross_attention")[layer - 1].reshape(-1, n)]
        for key, weights in ((("encoder", "self"), own), (("decoder", "cross"), cross)):
            expected = quantiles([entropy(one) for one in weights if len(one) > 1])
            np.testing.assert_allclose(found.entropy.loc[(*key, layer)], expected, rtol=1e-4)
    assert {name: list(length) for name, length in found.lengths.items()} == {
        name: list(store.split(name).plan["encoder/length"]) for name in ("train", "validation", "test")
    }
    assert not found.left_out


def test_a_position_of_a_label_trie_attends_to_its_own_path_alone(words_store: Path) -> None:
    store, values = StoreReader(words_store), []
    for row in range(ROWS):
        parents = plan_values(store, "train", row, "decoder/parent")
        weights = stored_values(store, "train", row, "decoder/self_attention")[0]
        for position in range(1, len(parents)):
            path, place = [position], position
            while (place := parents[place]) >= 0:
                path.append(place)
            values.append(entropy(weights[[position * (position + 1) // 2 + place for place in path]]))
    assert values
    found = inspect(store, sample_rows=ROWS).entropy.loc[("decoder", "self", 1)]
    np.testing.assert_allclose(found, quantiles(values), rtol=1e-4)


def naive_cka(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimator of Song et al. 2012, Eq. 5, as it is printed."""

    def hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
        n, one = len(k), np.ones(len(k))
        middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return float((np.trace(k @ l) + middle - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3)))

    k, l = (x @ x.T, y @ y.T)  # noqa: E741
    for gram in (k, l):
        np.fill_diagonal(gram, 0)
    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def test_similarity_is_debiased_cka_of_the_rows_means(words_store: Path) -> None:
    store = StoreReader(words_store)
    found = inspect(store, sample_rows=ROWS).similarity
    means = {
        (stack, layer): np.stack([normalised(states)[layer].mean(0) for states in states_of(store, stack)])
        for stack in ("encoder", "decoder")
        for layer in found[stack].columns
    }
    assert list(found.index) == list(means)
    for one in means:
        for other in means:
            if ("decoder", 0) not in (one, other):
                assert found.loc[one, other] == pytest.approx(naive_cka(means[one], means[other]), abs=1e-3)


def test_similarity_knows_rotations_and_noise_and_constants() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 200))
    turned = x @ np.linalg.qr(rng.normal(size=(200, 200)))[0] * 3 + 5
    found = debiased_cka([x, turned, rng.normal(size=(64, 300)), np.full((64, 8), 0.1)])
    assert found[0, 1] == pytest.approx(1)
    assert abs(found[0, 2]) < 0.1, "without the correction, independent wide vectors are alike"
    assert np.isnan(found[3]).all()


@pytest.mark.parametrize("settings", [{"dtype": "int8"}, {"rank": 6}, {"attention": "heads", "positions": "all"}])
def test_other_formats_have_nearly_the_same_statistics(settings, words_store, models, rows_folder, tmp_path) -> None:
    rows = str(rows_folder / "words.toml"), rows_folder / "words"
    make_store(tmp_path / "store", models["tied"], *rows, attention_dtype="uint8", **settings)
    found, whole = (inspect(path, sample_rows=ROWS) for path in (tmp_path / "store", words_store))
    np.testing.assert_allclose(found.norms, whole.norms, rtol=0.02)
    if "rank" not in settings:
        np.testing.assert_allclose(
            found.similarity.loc["encoder", "encoder"], whole.similarity.loc["encoder", "encoder"], atol=0.05
        )
    if "attention" not in settings:
        np.testing.assert_allclose(found.entropy, whole.entropy, atol=0.05)
    else:  # entropy is concave: that of the heads' mean is the larger one
        assert (found.entropy["median"] < whole.entropy["median"] + 0.01).all()


def test_what_a_format_does_not_hold_is_left_out_and_named(bert, rows_folder, tmp_path, bert_store) -> None:
    rows = str(rows_folder / "pairs.toml"), rows_folder / "scores"
    make_store(tmp_path / "store", bert, *rows, max_source_length=40, positions="pooled")
    found, whole = inspect(tmp_path / "store", sample_rows=ROWS), inspect(bert_store, sample_rows=ROWS)
    assert found.left_out.keys() == {f"{NORMS} of the encoder", ENTROPY}
    np.testing.assert_allclose(found.similarity, whole.similarity, atol=0.02)
    figure = activations_figure(found)
    assert [axes.get_title() for axes in figure.axes[:2]] == [LENGTHS, SIMILARITY]
    assert all(name in figure.get_supxlabel() for name in found.left_out)


def test_states_of_readout_positions(rows_folder, tmp_path) -> None:
    rows = str(rows_folder / "words.toml"), rows_folder / "words"
    make_store(tmp_path / "store", decoder_folder("llama"), *rows, positions="readout")
    found = inspect(tmp_path / "store")
    assert found.left_out.keys() == {ENTROPY}
    assert (found.norms > 0).all(axis=None)


def test_the_picture_draws_the_statistics(words_store: Path) -> None:
    found = inspect(words_store, sample_rows=ROWS)
    lengths, norms, entropies, similarity, _ = activations_figure(found).axes
    assert [axes.get_title() for axes in (lengths, norms, entropies, similarity)] == [
        LENGTHS,
        NORMS,
        ENTROPY,
        SIMILARITY,
    ]
    (encoder, decoder) = norms.lines
    np.testing.assert_allclose(encoder.get_ydata(), found.norms.loc["encoder", "median"])
    np.testing.assert_allclose(decoder.get_ydata(), found.norms.loc["decoder", "median"])
    assert len(entropies.lines) == 3
    np.testing.assert_allclose(similarity.images[0].get_array().filled(np.nan), found.similarity)


def test_few_rows_have_no_similarity_and_bad_settings_are_named(words_store: Path) -> None:
    assert inspect(words_store, sample_rows=3).left_out.keys() == {SIMILARITY}
    for settings, name in (({"sample_rows": 0}, "sample_rows"), ({"rows": 8}, "rows")):
        with pytest.raises(UserError, match=name):
            inspect(words_store, **settings)
