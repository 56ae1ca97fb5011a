"""What a trained network is measured against: the majority class, the untrained backbone, and a linear probe.

All three read the store alone.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from read_cache.loader.batches import SplitBatches, make_collator
from read_cache.metrics import compute_metric
from read_cache.scoring.evaluator import Evaluator
from read_cache.scoring.heads import Head
from read_cache.store.reader import SplitReader, StoreReader

Metrics = dict[str, float]
"""A metric, times 100, by split."""
FOLDS = 3
"""Of the cross-validation that chooses a probe's penalty."""


def baselines(store: StoreReader, probe: bool = False) -> dict[str, Metrics]:
    """Each baseline's metric on every split but train. The linear probe reads the training split too."""
    splits = {name: store.split(name) for name in store.manifest.splits if name != "train"}
    found = {"untrained backbone": {name: untrained(store, split) for name, split in splits.items()}}
    if store.manifest.task.labels:
        train = store.split("train")
        found["majority class"] = {name: majority(split, train) for name, split in splits.items()}
        if probe:
            found["linear probe"] = linear_probe(
                store, {name: mean_last_states(store, store.split(name)) for name in store.manifest.splits}
            )
    return found


def majority(split: SplitReader, train: SplitReader) -> float:
    """Always the training split's most frequent label, or its mean where labels are scores."""
    scores, task = train.plan["score"], split.manifest.task
    constant = float(scores.mean()) if task.scores else float(np.bincount(train.plan["label"]).argmax())
    return compute_metric(task.metric, split.plan["score"], np.full(split.examples, constant))


def untrained(store: StoreReader, split: SplitReader) -> float:
    """The backbone's own constrained predictions: READ with U = 0."""
    return Evaluator(split, last_states(store, split), Head.of(store)).evaluate([None])[0].metric


def linear_probe(store: StoreReader, features: Mapping[str, Any], standardized: bool = True) -> Metrics:
    """A linear model on [examples, features] by split, dense or sparse: its metric on every split but train.

    Logistic regression for classes, ridge for scores; the penalty is chosen by cross-validation on the training split.
    """
    train, task = store.split("train"), store.manifest.task
    if task.scores:
        model, gold = RidgeCV(alphas=np.logspace(-1, 4, 6)), train.plan["score"]
    elif np.bincount(train.plan["label"]).max() < FOLDS or len(np.unique(train.plan["label"])) == 1:
        model, gold = DummyClassifier(strategy="most_frequent"), train.plan["label"]  # there is nothing to tell apart
    else:
        scoring = {"matthews": "matthews_corrcoef"}.get(task.metric, "accuracy")
        model = LogisticRegressionCV(Cs=np.logspace(-4, 1, 6), cv=FOLDS, scoring=scoring, max_iter=500, random_state=0)
        gold = train.plan["label"]
    probe = make_pipeline(StandardScaler(), model) if standardized else model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (ConvergenceWarning, FutureWarning))
        probe.fit(features["train"], gold)
    golds = {name: store.split(name).plan["score"] for name in features if name != "train"}
    return {name: compute_metric(task.metric, gold, probe.predict(features[name])) for name, gold in golds.items()}


def mean_last_states(store: StoreReader, split: SplitReader) -> np.ndarray:
    """[examples, D] float32: the encoder's last state, RMS-normalised, averaged over each example's tokens."""
    rows = []
    for batch in last_states(store, split).in_order():
        real_BS1 = batch.encoder.real[..., None]
        total_BD = (batch.encoder.whole_states()[-1] * real_BS1).sum(1)
        rows.append((total_BD / real_BS1.sum(1)).numpy())
    return np.concatenate(rows)


def last_states(store: StoreReader, split: SplitReader) -> SplitBatches:
    """Batches of a split with each stack's last layer alone, and no attention weights."""
    return SplitBatches(split, make_collator(store, layers=()), batch_size=256, tier="streamed", attention=False)
