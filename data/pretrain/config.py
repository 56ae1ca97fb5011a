"""The settings of the bundled backbone's pretraining run, and its model shape."""

import dataclasses

from transformers import T5Config


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Everything that decides the weights; the run's folder is refused for other settings."""

    tokens: int = 100_007_936
    """Text tokens to train on, counted before corruption."""
    window: int = 128
    """Text tokens in one example."""
    batch_size: int = 64
    """Windows in one step."""
    learning_rate: float = 2e-3
    """AdamW's rate for vectors and embeddings, reached after the warm-up."""
    matrix_learning_rate: float = 1e-2
    """Muon's rate for the matrices inside the layers."""
    warmup_steps: int = 200
    decay_fraction: float = 0.3
    """The last part of the run, over which the rate falls linearly to zero."""
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.tokens // (self.window * self.batch_size)

    def rate_factor(self, step: int) -> float:
        """Warm-up, plateau, linear decay: the factor on both learning rates at `step` (from 0)."""
        warmup = (step + 1) / self.warmup_steps
        decay = (self.steps - step) / (self.steps * self.decay_fraction)
        return min(1.0, warmup, decay)


def backbone_config(vocab_size: int) -> T5Config:
    """T5 v1.0 (tied, scaled head; ReLU), 4 + 4 layers of width 128, the vocabulary padded to a multiple of 64."""
    return T5Config(
        vocab_size=-(-vocab_size // 64) * 64,
        d_model=128,
        d_kv=32,
        d_ff=512,
        num_heads=4,
        num_layers=4,
        num_decoder_layers=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
