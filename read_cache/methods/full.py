"""Full fine-tuning: every weight of the backbone trains."""

from pathlib import Path

from torch import Tensor, nn

from read_cache.backbones import Backbone, open_backbone
from read_cache.backbones.files import quietly
from read_cache.methods.base import CheckpointingConfig, LiveConfig, LiveMethod
from read_cache.scoring.heads import Rows


class Full(LiveMethod):
    """Train every weight, the LM head included."""

    kind = "full"
    Config = CheckpointingConfig

    def __init__(self, config: LiveConfig, backbone: Backbone) -> None:
        self._head_scale = backbone.head_scale() if backbone.language_model else 1.0
        super().__init__(config, backbone)

    def insert(self, module: nn.Module) -> nn.Module:
        return module.requires_grad_(True)

    def head_rows(self, token_ids: Tensor) -> Rows:
        head = self.backbone.module.get_output_embeddings()  # type: ignore[operator]
        return lambda: head.weight[token_ids.to(head.weight.device)] * self._head_scale

    def save(self, folder: Path) -> None:
        """Write a model's folder, which opens as a backbone."""
        with quietly(f"the fine-tuned model cannot be written to {folder}"):
            self.backbone.module.save_pretrained(folder)  # type: ignore[operator]
            self.backbone.tokenizer.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        self.backbone.module.load_state_dict(open_backbone(str(folder)).module.state_dict())
