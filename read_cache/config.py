"""Settings of a run: each with its type, default, check and help text, once.

Recipes, options and manifests are made from these classes. Settings of a network are in `networks/`, those
of a head in `scoring/`.
"""

from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from read_cache.errors import UserError
from read_cache.layers import choose_layers, parse_layers
from read_cache.settings import Settings
from read_cache.store.schema import Attention, AttentionDtype, ComputeDtype, Dtype, Format, Positions
from read_cache.store.spec import BackboneSpec


class RunConfig(Settings):
    """Settings that all networks of a run share. Together with the network's own they decide the result."""

    epochs: int = Field(30, ge=1)
    """Train for at most this many passes over the training split."""
    patience: int = Field(5, ge=1)
    """Stop a network after this many epochs without a better validation metric, or an equal one with a smaller loss."""
    batch_size: int = Field(32, ge=1)
    """Examples in a batch. All networks of a run get the same batches."""
    warmup: float = Field(0.06, ge=0, le=1)
    """Share of all steps over which the learning rate rises linearly; afterwards it falls linearly to zero."""
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Weight decay of AdamW."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the exponential moving average (EMA) of the weights, such as 0.99; 0 disables it.

    The average is validated and saved in place of the weights. Its decay is lower in the first steps.
    """
    clip: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Largest norm of a network's gradient."""
    order_seed: int = Field(0, ge=0, lt=2**63)
    """Seed of the order of the examples."""
    window: int = Field(4, ge=1)
    """Number of parts whose examples are shuffled together. More parts mix better and take more memory."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Precision of the matrix products in training: bf16 or fp32. Weights, losses and evaluation are fp32."""
    halving: int = Field(0, ge=0)
    """Stop the worse half of the networks each time this many epochs have passed; 0 stops none.

    The networks must train together: not on several workers, and no live methods.
    """


class OnDevice(Settings):
    """Device of the computation."""

    device: str = "cpu"
    """Torch device, such as cpu or cuda."""


class InMemory(OnDevice):
    """How much of a store is held."""

    memory: float = Field(4.0, gt=0, allow_inf_nan=False)
    """Host memory for parts of the store, in GB. Splits that fit are kept; the others are read again in every pass.

    An accelerator keeps splits that fit into half of its free memory.
    """
    disk: float = Field(10.0, ge=0, allow_inf_nan=False)
    """Largest size of all copies of remote stores' parts in ~/.cache/read-cache, in GB; 0 keeps no copies."""


class Work(OnDevice):
    """How work units run and are metered."""

    p0: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Power of the device at full utilisation, in watts; by default the board's power limit."""
    engine: str = "local"
    """Engine that runs the work: local, in this process, or ray, on the nodes of a Ray cluster."""
    workers: int = Field(1, ge=1)
    """Number of workers of the engine ray. `train` divides the networks into as many groups."""
    address: str | None = None
    """Address of the Ray cluster; by default RAY_ADDRESS, or a new cluster on this machine."""
    gpus_per_worker: float | None = Field(None, ge=0, allow_inf_nan=False)
    """GPUs of each worker of the engine ray, such as 0.5; by default 1 with device cuda, and 0 with cpu."""


class HubModel(Settings):
    """Which version of a model is opened."""

    revision: str | None = None
    """Branch, tag or commit of a hub model; by default its main branch."""


class Place(Work, InMemory):
    """Device, memory and workers of a run. No setting here changes what is trained; sums may be rounded differently."""

    stack: Literal["auto", "on", "off"] = "auto"
    """Train networks of the same shape as one bundle, in batched products: on, off, or auto (on an accelerator)."""
    compile: bool = False
    """Compile the training steps of networks without dropout, in about a minute; if it fails, train without it."""

    @property
    def stacked(self) -> bool:
        """True if networks of the same shape train with one product for all."""
        return self.stack == "on" or (self.stack == "auto" and not self.device.startswith("cpu"))


class ExtractPlace(Work, HubModel):
    """Device and workers of an extraction. No setting here changes what is stored."""

    worker: str = "1/1"
    """Share the work: 2/4 is worker 2 of 4 processes, on any machines."""


class EvaluateConfig(InMemory):
    """How an evaluation reads a store."""

    batch_size: int = Field(128, ge=1)
    """Examples in a batch."""


class RateRange(Settings):
    """Learning rates between two bounds."""

    low: float = Field(gt=0, lt=1)
    """Lowest learning rate."""
    high: float = Field(gt=0, lt=1)
    """Highest learning rate."""
    count: int = Field(ge=2)
    """Number of learning rates, even on a log scale, bounds included."""

    def model_post_init(self, context: Any) -> None:
        if self.low >= self.high:
            raise UserError(f"low is {self.low} and high is {self.high}, expected low < high")

    def rates(self) -> list[float]:
        """Return all rates, rounded to six digits."""
        return [float(f"{rate:.6g}") for rate in np.geomspace(self.low, self.high, self.count)]


class SearchConfig(Settings):
    """Settings of the training that follows the grid of a task."""

    final_seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = ()
    """Seeds with which the best network of each task on validation is trained at the end."""


class ExtractConfig(Settings):
    """Settings of a store, apart from model and rows."""

    dtype: Dtype = "bf16"
    """Format of the stored hidden states: fp32 (exact), bf16 (half the bytes) or int8 (a quarter; first stack)."""
    compute_dtype: ComputeDtype | None = None
    """Precision of the backbone's computation, fp32 or bf16; by default fp32 for fp32 stores and bf16 for others."""
    attention: Attention | None = None
    """Attention weights to store: mean (over heads), heads (of every head) or none.

    By default mean; none for decoder-only models, where they did not raise scores and take most of the bytes.
    """
    attention_dtype: AttentionDtype | None = None
    """Format of the stored attention weights: fp32, fp16 or uint8; by default fp32 in fp32 stores, fp16 in others."""
    positions: Positions | None = None
    """Positions whose states are stored: all, readout (those that score labels), or pooled (means over each text).

    By default all; readout for decoder-only models, unless attention is mean or heads. pooled is for encoders. Both
    store no attention weights.
    """
    rank: int = Field(default=0, ge=0)
    """Store each hidden state of the first stack as this many principal components; 0 stores whole states."""
    layers: str = "all"
    """Layers to store, such as 2,4,6-12. The embeddings and each stack's last layer are always stored."""
    max_examples: int | None = Field(default=None, ge=1)
    """Store at most this many examples of each split, drawn at random by the seed; by default all."""
    max_source_length: int = Field(default=128, ge=4)
    """Length limit of a source text, in tokens, special tokens included. Longer texts are cut."""
    seed: int = Field(default=0, ge=0)
    """Seed of the order of the examples in the store."""
    part_tokens: int = Field(default=8192, ge=1)
    """Largest number of tokens in one part, in each stack. A part has one file in every array."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Largest number of padded tokens in one forward batch."""
    side_init: Literal["magnitude", "fisher"] | None = None
    """Also write first weights for the setting init of `train`: a T5 pruned by this importance, magnitude or fisher."""
    side_reduction: int = Field(default=8, ge=1)
    """The pruned side networks are this many times narrower than the backbone."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        parse_layers(self.layers)
        if self.positions in ("readout", "pooled") and self.attention in ("mean", "heads"):
            raise UserError(
                f"positions is {self.positions} and attention is {self.attention}, but attention weights belong to all "
                "positions: set attention to none, or positions to all"
            )
        if self.dtype == "fp32" and self.compute_dtype == "bf16":
            raise UserError(
                "dtype is fp32 and compute_dtype is bf16: the store would hold bf16's precision in twice the bytes"
            )
        return self

    @property
    def computed_in(self) -> ComputeDtype:
        """Precision of the backbone's computation."""
        return self.compute_dtype or ("fp32" if self.dtype == "fp32" else "bf16")

    def recommended(self, width: int) -> "ExtractConfig":
        """Return these settings in the recommended format for a backbone of this width.

        It is the smallest one whose scores were not lower than those of bf16 on an encoder (docs/figures.md).
        """
        return self.replaced(dtype="int8", rank=self.rank or width // 6, attention_dtype="uint8", compute_dtype=None)

    def format(self, spec: BackboneSpec) -> Format:
        """Return the storage format for a backbone. Raises UserError if it has no such layers or positions."""
        width, decoder_only = spec.stacks[0].width, spec.language_model and len(spec.stacks) == 1
        if self.rank >= width:
            raise UserError(f"rank is {self.rank}, expected less than the {width} channels of a hidden state, or 0")
        positions = self.positions or ("readout" if decoder_only and self.attention in (None, "none") else "all")
        if positions == "readout" and not decoder_only:
            raise UserError(
                f"positions is readout, but {spec.name} is not a decoder-only model: set it to all or pooled"
            )
        if positions == "pooled" and decoder_only:
            raise UserError(f"positions is pooled, but {spec.name} has no encoder: set it to readout or all")
        return Format(
            dtype=self.dtype,
            attention=self.attention or ("mean" if positions == "all" else "none"),
            attention_dtype=self.attention_dtype or ("fp32" if self.dtype == "fp32" else "fp16"),
            rank=self.rank,
            layers={
                stack.name: choose_layers(self.layers, tuple(range(1, stack.layers + 1)), f"the {stack.name}")
                for stack in spec.stacks
            },
            positions=positions,
        )


class PredictConfig(OnDevice, HubModel):
    """Settings of prediction. Only `max_new_tokens` decides what is predicted; sums may be rounded differently."""

    batch_size: int = Field(default=32, ge=1)
    """Texts in one pass of the backbone."""
    look_ahead: int = Field(default=16, ge=1)
    """Number of batches whose lines are read together, so that texts of like length share a batch."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Longest generated text, in tokens, for tasks with an open target."""


class InspectConfig(Settings):
    """Which rows of a store are inspected."""

    sample_rows: int = Field(default=256, ge=1)
    """Number of training rows whose activations are read."""


class ServeConfig(PredictConfig):
    """Settings of the HTTP server, whose batches hold the rows of waiting requests."""

    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs a token in READ_CACHE_TOKEN."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 chooses a free port."""
    look_ahead: int = Field(default=1, ge=1)
    """Number of batches whose rows are gathered together, so that texts of like length share a batch."""
    wait: float = Field(default=2.0, ge=0, le=60_000)
    """Longest time that a request waits for others to fill its batch, in milliseconds."""
    timeout: float = Field(default=30.0, gt=0, le=86_400)
    """Longest time for the arrival of a request's body, and then for its prediction, in seconds."""
    queue: int = Field(default=64, ge=1)
    """Largest number of requests under way at a time. More are refused with status 503."""
    max_rows: int = Field(default=256, ge=1)
    """Largest number of rows in a request."""
    max_body: int = Field(default=1_000_000, ge=1)
    """Largest body of a request, in bytes. A larger one is refused with status 413."""
