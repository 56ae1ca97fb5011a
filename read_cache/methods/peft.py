"""LoRA, (IA)3, prompt tuning and prefix tuning, as peft defines them. peft opens the saved folders."""

import abc
import dataclasses
import warnings
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from read_cache.backbones import TokenBatch
from read_cache.errors import UserError
from read_cache.methods.base import CheckpointingConfig, LiveBatch, LiveConfig, LiveMethod

TASK_TYPES = {"t5": "SEQ_2_SEQ_LM", "bert": "FEATURE_EXTRACTION", "llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM"}
"""peft's name for the kind of model, by family."""
TARGETS = {"t5": ("q", "v"), "bert": ("query", "value"), "llama": ("q_proj", "v_proj"), "gpt2": ("c_attn",)}
"""Names of the linear layers of queries and values, by family; GPT-2 has one for queries, keys and values."""


class PeftMethod(LiveMethod):
    """A method that peft defines. A subclass defines `peft_config`."""

    @abc.abstractmethod
    def peft_config(self, peft: Any) -> Any:
        """Return the method's settings as peft takes them."""

    def refusal(self) -> str:
        """Return why the backbone is refused, and what to do."""
        model = f"a {self.backbone.config.model_type}, such as model {self.backbone.name}"
        return f"method {self.kind} is not defined for {model}: use lora"

    def insert(self, module: nn.Module) -> nn.Module:
        """Insert peft's weights, which alone train. Raises UserError if peft is missing or refuses the backbone."""
        try:
            import peft
        except ImportError as error:
            raise UserError(f"the method {self.kind} uses peft, which is not installed: pip install peft") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft calls what transformers is about to rename
            try:
                adapted: nn.Module = peft.get_peft_model(module, self.peft_config(peft))
            except (KeyError, ValueError) as error:
                raise UserError(self.refusal()) from error
        return adapted

    def save(self, folder: Path) -> None:
        """Write a folder that peft opens."""
        self.module.save_pretrained(str(folder), save_embedding_layers=False)  # type: ignore[operator]
        (folder / "README.md").unlink()  # peft's card is an empty form

    def load(self, folder: Path) -> None:
        import peft

        peft.set_peft_model_state_dict(self.module, load_file(folder / "adapter_model.safetensors"))


class LoraConfig(CheckpointingConfig):
    """Settings of LoRA."""

    shown: ClassVar[tuple[str, ...]] = ("rank",)
    rank: int = Field(8, ge=1)
    """Rank of the change of each weight."""
    alpha: float = Field(16, gt=0)
    """The change is multiplied by alpha / rank."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout probability on the input of each change, in training."""
    targets: str = ""
    """Names of the linear layers that are changed, separated by spaces; by default those of queries and values."""


class Lora(PeftMethod):
    """Replace each chosen weight W by W + (alpha / rank) B A, and train A and B; B starts at zero."""

    kind = "lora"
    Config = LoraConfig
    config: LoraConfig

    @property
    def targets(self) -> list[str]:
        """Names of the linear layers that are changed."""
        return self.config.targets.split() or list(TARGETS.get(self.backbone.family, ()))

    def peft_config(self, peft: Any) -> Any:
        return peft.LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            lora_dropout=self.config.dropout,
            target_modules=self.targets,
            fan_in_fan_out=self.backbone.family == "gpt2",  # whose linear layers are transposed
            task_type=TASK_TYPES.get(self.backbone.family),
        )

    def refusal(self) -> str:
        return (
            f"targets are {self.targets}, but no linear layer of {self.backbone.name} has one of these names: set "
            "targets to the names of its linear layers"
        )


class Ia3(PeftMethod):
    """Train factors of the attention's keys and values and of the feed-forward layers' inner states, from 1 on.

    peft chooses the layers of each architecture. Liu et al., 2022, "Few-Shot Parameter-Efficient Fine-Tuning is
    Better and Cheaper than In-Context Learning".
    """

    kind = "ia3"

    def peft_config(self, peft: Any) -> Any:
        family = self.backbone.family
        return peft.IA3Config(fan_in_fan_out=family == "gpt2", task_type=TASK_TYPES.get(family))


class VirtualConfig(LiveConfig):
    """Settings of methods with virtual tokens."""

    shown: ClassVar[tuple[str, ...]] = ("virtual_tokens",)
    virtual_tokens: int = Field(20, ge=1)
    """Number of trained vectors that every token attends to."""


class VirtualTokens(PeftMethod):
    """Train vectors that precede the tokens of a stack. The tokens' positions are counted after the vectors."""

    Config = VirtualConfig
    config: VirtualConfig
    t5_stack: ClassVar[str]
    """The stack of a T5 that gets the vectors."""

    @abc.abstractmethod
    def prepend(self, stack: nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return a stack's inputs with the vectors."""

    def forward(self, batch: LiveBatch, generator: torch.Generator | None = None) -> Tensor:
        module: Any = self.backbone.module
        stack = getattr(module, f"get_{self.t5_stack}")() if self.backbone.family == "t5" else module.base_model
        hook = stack.register_forward_pre_hook(self.prepend, with_kwargs=True)
        try:
            return super().forward(batch, generator)
        finally:
            hook.remove()  # peft's own forward and `generate` insert the vectors themselves

    def check_limit(self, limit: int) -> None:
        count, positions = self.config.virtual_tokens, self.backbone.positions
        if positions is not None and limit + count + self.backbone.language_model > positions:  # a label has one more
            raise UserError(
                f"virtual_tokens is {count} and rows have up to {limit} tokens, together more than the {positions} "
                f"positions of model {self.backbone.name}: lower virtual_tokens, or extract with a lower "
                "max_source_length"
            )


class Prompt(VirtualTokens):
    """Train vectors that precede the text's embeddings. They start as the embeddings of random tokens.

    In a T5 they precede the encoder's text, and the decoder attends to them too. Lester et al., 2021, "The Power of
    Scale for Parameter-Efficient Prompt Tuning".
    """

    kind = "prompt"
    t5_stack = "encoder"

    def peft_config(self, peft: Any) -> Any:
        return peft.PromptTuningConfig(
            num_virtual_tokens=self.config.virtual_tokens,
            num_transformer_submodules=1,  # of a T5, the encoder alone
            prompt_tuning_init="SAMPLE_VOCAB",
            task_type=TASK_TYPES[self.backbone.family],
        )

    def prepend(self, stack: nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        ids: Tensor = inputs.pop("input_ids")
        model: Any = self.module
        text = model.word_embeddings(ids[:, self.config.virtual_tokens :])
        return args, inputs | {"inputs_embeds": torch.cat([model.get_prompt(len(ids)), text], 1)}

    def forward(self, batch: LiveBatch, generator: torch.Generator | None = None) -> Tensor:
        count, first, *rest = self.config.virtual_tokens, *self.backbone.stacks
        stacks = dict(batch.tokens.stacks)
        stacks[first.name] = stacks[first.name].after(count)
        y = super().forward(dataclasses.replace(batch, tokens=TokenBatch(stacks)), generator)
        return y if rest else y[:, count:]


class Prefix(VirtualTokens):
    """Train keys and values that precede those of the text in each layer's self-attention; in a T5, the decoder's.

    Li and Liang, 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", without its reparametrization.
    """

    kind = "prefix"
    t5_stack = "decoder"

    def peft_config(self, peft: Any) -> Any:
        config, shape = self.backbone.config, {}
        if self.backbone.family == "t5":  # peft takes the encoder's depth, and heads of width d_model / heads
            shape = {"num_layers": config.num_decoder_layers, "token_dim": config.num_heads * config.d_kv}
        return peft.PrefixTuningConfig(
            num_virtual_tokens=self.config.virtual_tokens, task_type=TASK_TYPES[self.backbone.family], **shape
        )

    def prepend(self, stack: nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        count, mask = self.config.virtual_tokens, inputs["attention_mask"]
        model: Any = self.module
        attended = 0 if mask.is_floating_point() else 1  # a mask that is added to scores, or one of tokens
        if "position_ids" in inputs:
            inputs["position_ids"] = inputs["position_ids"] + count
        mask = F.pad(mask, (count, 0), value=attended)
        return args, inputs | {"past_key_values": model.get_prompt(len(mask)), "attention_mask": mask}
