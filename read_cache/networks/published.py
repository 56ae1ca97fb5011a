"""Networks on the Hugging Face hub: a repository has the files of a network's folder, and a card."""

import re
import tempfile
from pathlib import Path

from huggingface_hub import EvalResult, HfApi, ModelCardData

from read_cache import hub
from read_cache.errors import UserError
from read_cache.networks.saved import (
    CALIBRATION,
    CONFIG,
    HEAD,
    NETWORK,
    WEIGHTS,
    NetworkRecord,
    TrainedNetwork,
    save_network,
)
from read_cache.store.spec import IMPORTED

COMMIT = re.compile(r"[0-9a-f]{40}")
METRICS = {
    "accuracy": ["accuracy"],
    "matthews": ["matthews_correlation"],
    "f1_accuracy": ["f1", "accuracy"],
    "pearson_spearman": ["pearsonr", "spearmanr"],
    "token_accuracy": ["accuracy"],
}
"""The hub's names of the parts of a task's metric."""
CARD = """---
{data}
---

# {name}

A side network of kind `{kind}` for the frozen language model `{backbone}`, trained by read-cache on the task `{task}`.
It corrects the model's last hidden state; the model itself is not changed. `config.json` has all settings.

```python
import read_cache

read_cache.{call}
```

| validation | test | parameters | learning rate | seed |
|---|---|---|---|---|
| {validation} | {test} | {parameters:,} | {rate:g} | {seed} |

Scores are times 100, by the metric {metric}. The model's weights must have the digest `{digest}`.
"""


def download_network(name: str, revision: str | None) -> Path:
    """Return the folder of a network's files at one commit, in the hub's cache.

    Raises UserError if the repository cannot be had or holds no network.
    """
    what = f"no network at {name}: no such folder, and not on the hub"
    with hub.reaching(what, revision):
        config = hub.snapshot(name, "model", revision, [CONFIG]) / CONFIG
        if not config.exists() or b'"activations_digest"' not in config.read_bytes():
            raise UserError(f"{name} on the hub holds no side network: expected one that push_to_hub wrote")
        return hub.snapshot(name, "model", revision, [CONFIG, WEIGHTS, CALIBRATION])


def push_network(network: TrainedNetwork, repo: str, private: bool | None, license: str | None) -> str:
    """Upload a network and its card in one commit, and return the repository's URL. Raises UserError."""
    record, api = network.record, HfApi()
    if record.backbone.family != IMPORTED and not COMMIT.fullmatch(record.backbone.revision):
        # not of the hub: nobody else has the folder that the name may be
        record = record.replaced(backbone=record.backbone.replaced(name=Path(record.backbone.name).name))
    tensors = {NETWORK: network.network.state_dict(), HEAD: network.head_weights}
    weights = {f"{prefix}{name}": value for prefix, values in tensors.items() for name, value in values.items()}
    with tempfile.TemporaryDirectory() as made, hub.reaching(f"{record.name} cannot be pushed to {repo}"):
        url = api.create_repo(repo, private=private, exist_ok=True)
        save_network(Path(made), record, weights, network.calibration)
        Path(made, "README.md").write_text(card(record, url.repo_id, license), encoding="utf-8")
        message = f"Push {record.name} on {record.task.name}"
        api.upload_folder(repo_id=url.repo_id, folder_path=made, commit_message=message, delete_patterns=CALIBRATION)
    return str(url)


def card(record: NetworkRecord, repo: str, license: str | None) -> str:
    """Return README.md of a network's repository: metadata for the hub in YAML, then text."""
    task, scores = record.task, record.scores
    kind, parts = "text-classification" if task.labels else "text-generation", METRICS[task.metric]
    results = [
        EvalResult(
            task_type=kind,
            dataset_type=task.name,
            dataset_name=task.name,
            dataset_split=split,
            metric_type=parts[0] if len(parts) == 1 else task.metric,
            metric_name=f"{' and '.join(parts)}, times 100",
            metric_value=round(scores[split], 2),
        )
        for split in ("validation", "test")
        if scores.get(split) is not None
    ]
    data = ModelCardData(
        base_model=record.backbone.name if COMMIT.fullmatch(record.backbone.revision) else None,
        license=license,
        library_name="read-cache",
        pipeline_tag=kind,
        metrics=parts,
        tags=["read-cache", "side-network", record.kind],
        eval_results=results or None,
        model_name=record.name if results else None,
    )
    if record.backbone.family == IMPORTED:  # no model is known that could be run
        call = f'evaluate("STORE", "{repo}")  # a store of states that were imported under the same model'
    else:
        example = '"a text"' if len(task.text_fields) == 1 else '"first text\\tsecond text"'
        call = f'predict("{record.backbone.name}", "{repo}", [{example}])'
    shown = {split: "-" if scores.get(split) is None else f"{scores[split]:.2f}" for split in ("validation", "test")}
    return CARD.format(
        data=data.to_yaml(),
        name=record.name,
        kind=record.kind,
        backbone=record.backbone.name,
        task=task.name,
        call=call,
        parameters=scores.get("parameters", 0),
        rate=record.learning_rate,
        seed=record.seed,
        metric=task.metric,
        digest=record.backbone.digest,
        **shown,
    )
