"""The tasks' metrics, times 100, by scikit-learn and scipy; what they leave undefined is defined here.

With one class only, or constant predictions or scores, Matthews and both correlations are 0: nothing was told apart.
F1 of a set without positives, predicted or true, is 0 as well.
"""

import warnings

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from read_cache.errors import UserError
from read_cache.tasks import Metric


def compute_metric(metric: Metric, gold: np.ndarray, predicted: np.ndarray) -> float:
    """Return the headline number of `metric`; gold and predicted are [examples]: label ids, scores, or token shares."""
    return headline(detail_metrics(metric, gold, predicted))


def headline(details: dict[str, float]) -> float:
    """Return the mean of a metric's parts: F1 and accuracy, Pearson and Spearman, or its only part."""
    return float(np.mean(list(details.values())))


def detail_metrics(metric: Metric, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return each part of a metric by name, times 100. Raises UserError for empty inputs or unequal lengths."""
    if len(gold) == 0 or len(gold) != len(predicted):
        raise UserError(f"{metric} needs as many predictions as gold values: {len(predicted)} against {len(gold)}")
    match metric:
        case "accuracy":
            values = {"accuracy": accuracy_score(gold, predicted)}
        case "matthews":
            constant = np.ptp(gold) == 0 or np.ptp(predicted) == 0
            values = {"matthews": 0.0 if constant else matthews_corrcoef(gold, predicted)}
        case "f1_accuracy":
            f1 = f1_score(gold, predicted, pos_label=1, average="binary", zero_division=0.0)
            values = {"f1": f1, "accuracy": accuracy_score(gold, predicted)}
        case "pearson_spearman":
            values = {"pearson": _correlation(pearsonr, gold, predicted)}
            values |= {"spearman": _correlation(spearmanr, gold, predicted)}
        case "token_accuracy":
            values = {"token_accuracy": float(np.mean(predicted))}
    return {name: 100 * float(value) for name, value in values.items()}


def _correlation(function, gold: np.ndarray, predicted: np.ndarray) -> float:  # type: ignore[no-untyped-def]
    if len(gold) < 2 or np.ptp(gold) == 0 or np.ptp(predicted) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # near-constant input
        return float(np.nan_to_num(function(gold, predicted)[0]))
