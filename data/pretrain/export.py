"""`python -m read_cache.data.pretrain.export WORK OUT`: the checkpoint as a backbone with a model card."""

import json
import shutil
from pathlib import Path

import matplotlib
import torch
import typer
from safetensors import safe_open
from transformers import AutoTokenizer, T5ForConditionalGeneration

from .config import PretrainConfig, backbone_config
from .spans import span_counts

CARD = """# t5-tiny-wiki

The backbone that comes with read-cache, so that its demo and tests need no download: a T5 v1.0 (tied, scaled head; ReLU)
with {layers} + {layers} layers of width {width}, {parameters:.2f} M parameters, and a SentencePiece vocabulary of its own ({pieces}
pieces and 100 sentinels). It is a toy: weakly pretrained, English only, good for showing that things work.

| | |
|---|---|
| objective | span corruption, 15% of the tokens in spans of mean length 3 |
| text | English Wikipedia (dump of 2015, CC BY-SA 3.0), paragraphs joined and cut into windows of {window} tokens |
| steps | {steps:,} of {batch_size} windows: {text_tokens:.1f} M tokens of text, {model_tokens:.1f} M source and target tokens |
| start | embeddings from a factorised PPMI matrix of the text |
| optimiser | Muon for the layers' matrices (peak rate {matrix_rate}), AdamW for the rest (peak {rate}); {warmup} steps of warm-up, linear decay over the last {decay:.0%} |
| precision | bf16 autocast on a CPU; saved in bf16 |
| held-out loss | {held_out:.3f} nats a target token (one paragraph in 200, never trained on; {before:.3f} at the first measurement) |

![Loss in nats a target token against steps](loss.png)

`make backbone` makes it again from a corpus file.
"""  # noqa: E501


def export(work: Path, out: Path) -> None:
    """Write config, bf16 safetensors, tokenizer, loss curve and model card to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    model = T5ForConditionalGeneration(backbone_config(len(tokenizer)))
    with safe_open(work / "checkpoint.safetensors", framework="pt") as file:
        step = int(file.metadata()["step"])
        for name, parameter in model.named_parameters():
            parameter.data.copy_(file.get_tensor(f"model.{name}"))
    model.to(torch.bfloat16).save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "spiece.model"):
        shutil.copyfile(work / "tokenizer" / name, out / name)

    rows = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    by_step = {row["step"]: row for row in rows if row["step"] <= step}
    rows = [by_step[key] for key in sorted(by_step)]  # a resumed run repeats the steps after its checkpoint
    held_out = [(row["step"], row["held_out_loss"]) for row in rows if "held_out_loss" in row]
    draw_losses(rows, held_out, out / "loss.png")

    config = PretrainConfig(**json.loads((work / "pretrain_config.json").read_text()))
    _, spans = span_counts(config.window)
    text_tokens = step * config.batch_size * config.window / 1e6
    (out / "README.md").write_text(
        CARD.format(
            layers=model.config.num_layers,
            width=model.config.d_model,
            parameters=sum(p.numel() for p in model.parameters()) / 1e6,
            pieces=len(tokenizer) - 100,
            window=config.window,
            steps=step,
            batch_size=config.batch_size,
            text_tokens=text_tokens,
            model_tokens=text_tokens * (config.window + 2 * spans + 2) / config.window,
            matrix_rate=config.matrix_learning_rate,
            rate=config.learning_rate,
            warmup=config.warmup_steps,
            decay=config.decay_fraction,
            held_out=held_out[-1][1],
            before=held_out[0][1],
        )
    )


def draw_losses(rows: list[dict], held_out: list[tuple[int, float]], path: Path) -> None:
    """Training and held-out loss against steps, as a PNG."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=110)
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=1, label="training (bf16)")
    axes.plot(*zip(*held_out, strict=True), linewidth=2, label="held out")
    axes.set(xlabel="step", ylabel="nats a target token", ylim=(min(r["loss"] for r in rows) - 0.1, 6.0))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    typer.run(export)
