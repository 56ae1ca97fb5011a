"""`python -m read_cache.data.pretrain CORPUS WORK`: pretrain the bundled backbone; resumes where it stopped."""

import dataclasses
import itertools
import json
import time
from pathlib import Path

import numpy as np
import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, T5ForConditionalGeneration

from .batches import SpanBatches
from .config import PretrainConfig, backbone_config
from .corpus import read_paragraphs, write_token_ids
from .embeddings import ppmi_embeddings
from .vocabulary import train_vocabulary

CHECKPOINT_EVERY = 250
HELD_OUT_BATCHES = 40
PPMI_TOKENS = 20_000_000


def pretrain(
    corpus: Path,
    work: Path,
    tokens: int = PretrainConfig.tokens,
    learning_rate: float = PretrainConfig.learning_rate,
    matrix_learning_rate: float = PretrainConfig.matrix_learning_rate,
    stop_after: int = 0,
) -> None:
    """Train the vocabulary, tokenise, start from PPMI embeddings, train; leave everything in `work`."""
    config = PretrainConfig(tokens=tokens, learning_rate=learning_rate, matrix_learning_rate=matrix_learning_rate)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer_folder = work / "tokenizer"
    if not (tokenizer_folder / "tokenizer.json").exists():
        train_vocabulary(itertools.islice(read_paragraphs(corpus), 0, None, 8), tokenizer_folder)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    train_file, held_out_file = write_token_ids(corpus, tokenizer, work)
    first_sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    train_batches = SpanBatches(train_file, config, first_sentinel, tokenizer.eos_token_id)
    held_out = SpanBatches(held_out_file, config, first_sentinel, tokenizer.eos_token_id)

    torch.manual_seed(config.seed)
    model = T5ForConditionalGeneration(backbone_config(len(tokenizer)))
    optimizers = make_optimizers(model, config)
    checkpoint = work / "checkpoint.safetensors"
    if checkpoint.exists():
        step = load_checkpoint(checkpoint, model, optimizers)
    else:
        step = 0
        ids = np.fromfile(train_file, dtype=np.uint16, count=PPMI_TOKENS)
        vectors = ppmi_embeddings(ids, model.config.vocab_size, model.config.d_model)
        model.shared.weight.data.copy_(torch.from_numpy(vectors))

    forward = torch.compile(model)
    log = (work / "log.jsonl").open("a")
    started, first_step, losses = time.monotonic(), step, []
    while step < min(config.steps, stop_after or config.steps):
        factor = config.rate_factor(step)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
        source, target = train_batches.batch(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = forward(input_ids=source, labels=target).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
        losses.append(loss.item())
        step += 1
        if step % 50 == 0 or step == config.steps:
            rate = (step - first_step) * config.batch_size * config.window / (time.monotonic() - started)
            row = {"step": step, "loss": round(float(np.mean(losses)), 4), "tokens_per_second": round(rate)}
            losses.clear()
            if step % CHECKPOINT_EVERY == 0 or step == config.steps:
                row["held_out_loss"] = round(held_out_loss(model, held_out), 4)
                save_checkpoint(checkpoint, model, optimizers, step)
            log.write(json.dumps(row) + "\n")
            log.flush()
            print(row, f"of {config.steps} steps", flush=True)
    (work / "pretrain_config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def make_optimizers(model: torch.nn.Module, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings, norms and position biases."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inside = parameter.ndim == 2 and "shared" not in name and "relative_attention_bias" not in name
        (matrices if inside else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=config.matrix_learning_rate, weight_decay=0.01, adjust_lr_fn="original")
    adamw = torch.optim.AdamW(others, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adamw]


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, batches: SpanBatches) -> float:
    """Mean cross-entropy in nats a target token over the first held-out batches, always the same ones."""
    with torch.autocast("cpu", torch.bfloat16):
        losses = [model(input_ids=s, labels=t).loss.item() for s, t in map(batches.batch, range(HELD_OUT_BATCHES))]
    return float(np.mean(losses))


def save_checkpoint(path: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    """Weights, optimiser state and step in one safetensors file, replaced whole."""
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer.{number}.{index}.{key}"] = torch.as_tensor(value)
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished, metadata={"step": str(step)})
    unfinished.replace(path)


def load_checkpoint(path: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """Restore what `save_checkpoint` wrote; returns the step."""
    tensors = load_file(path)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[f"model.{name}"])
    for number, optimizer in enumerate(optimizers):
        state_dict = optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{number}."):
                _, _, index, key = name.split(".")
                state_dict["state"].setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict(state_dict)
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])


if __name__ == "__main__":
    typer.run(pretrain)
