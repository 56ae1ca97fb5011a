"""Metrics against scikit-learn and scipy on fixed vectors, and what is defined where those are not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from read_cache.errors import UserError
from read_cache.scoring.evaluator import compute_metric, detail_metrics

GOLD = np.array([0, 1, 1, 0, 1, 0, 1, 1])
PREDICTED = np.array([0, 1, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.0, 1.2, 5.0, 3.4, 2.2, 2.2])
GUESSES = np.array([0.4, 1.0, 4.0, 3.6, 3.0, 1.4])


def test_metrics_are_those_of_the_libraries_times_100() -> None:
    assert compute_metric("accuracy", GOLD, PREDICTED) == pytest.approx(100 * accuracy_score(GOLD, PREDICTED))
    assert compute_metric("matthews", GOLD, PREDICTED) == pytest.approx(100 * matthews_corrcoef(GOLD, PREDICTED))
    both = (f1_score(GOLD, PREDICTED) + accuracy_score(GOLD, PREDICTED)) / 2
    assert compute_metric("f1_accuracy", GOLD, PREDICTED) == pytest.approx(100 * both)
    both = (pearsonr(SCORES, GUESSES)[0] + spearmanr(SCORES, GUESSES)[0]) / 2
    assert compute_metric("pearson_spearman", SCORES, GUESSES) == pytest.approx(100 * both)


def test_metrics_by_hand() -> None:
    assert compute_metric("accuracy", GOLD, PREDICTED) == 75.0
    assert detail_metrics("f1_accuracy", GOLD, PREDICTED) == pytest.approx({"f1": 80.0, "accuracy": 75.0})
    assert compute_metric("token_accuracy", np.zeros(2), np.array([0.5, 1.0])) == 75.0


@pytest.mark.parametrize("gold", [GOLD, np.zeros(8, int), np.ones(8, int)])
@pytest.mark.parametrize("value", [0, 1])
def test_constant_predictions_and_single_classes_are_defined(gold, value) -> None:
    constant = np.full(8, value)
    assert compute_metric("matthews", gold, constant) == 0
    assert compute_metric("pearson_spearman", gold, constant) == 0
    assert compute_metric("pearson_spearman", np.full(8, value), gold) == 0
    assert detail_metrics("f1_accuracy", np.zeros(8, int), constant)["f1"] == 0


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(UserError, match="as many predictions"):
        compute_metric("accuracy", GOLD, PREDICTED[:3])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_every_metric_is_finite_and_within_its_range(pairs) -> None:
    gold, predicted = map(np.array, zip(*pairs, strict=True))
    for metric in ("accuracy", "matthews", "f1_accuracy", "pearson_spearman"):
        assert -100 - 1e-9 <= compute_metric(metric, gold, predicted) <= 100 + 1e-9
