"""A Qwen3.5 that sees in numbers and names: its sizes, config.json's words for them, the checkpoint's tensors.

Source: transformers' ``Qwen3_5Config`` and ``Qwen3_5MoeConfig``, and what ``save_pretrained`` writes.
"""

from collections.abc import Collection
from dataclasses import dataclass

from helpers.models.configs import qwen3_5
from helpers.models.published import check_features, checkpoint_name, tower_to_hf, under
from helpers.vision import qwen3_5 as tower


@dataclass(frozen=True)
class Config:
    """The sizes of one model. The published names stand in CONFIG_NAMES."""

    text: qwen3_5.Config
    vision: tower.Config
    image_token: int = 248056  # the placeholder

    def __post_init__(self):
        if self.vision.out_width != self.text.width:
            raise ValueError(f"out_hidden_size is {self.vision.out_width}; the text model has width {self.text.width}")

    @property
    def num_blocks(self) -> int:
        """Blocks of the text model."""
        return self.text.num_blocks


CONFIG_NAMES = {"text": "text_config", "vision": "vision_config", "image_token": "image_token_id"}  # config.json's

# Ours -> the checkpoint's; {n} is the block, {e} the expert.
NAMES = {
    **under("text.", "", qwen3_5.names("model.language_model.")),
    **under("vision.", "model.visual.", tower.NAMES),
}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary. ValueError where a part is missing or a feature is asked that is not here."""
    if missing := [name for name in ("text_config", "vision_config") if not isinstance(published.get(name), dict)]:
        raise ValueError(f"config.json lacks {', '.join(missing)}")
    check_features(published, {}, "Qwen3.5")
    tied = published.get("tie_word_embeddings", False)  # on both levels; transformers obeys the upper one
    text = qwen3_5.from_hf({**published["text_config"], "tie_word_embeddings": tied})
    given = {"image_token": published["image_token_id"]} if "image_token_id" in published else {}
    return Config(text, tower.from_hf(published["vision_config"]), **given)


def to_hf(config: Config) -> dict:
    """The dictionary of a config.json that transformers and ``from_hf`` read."""
    kind, name = ("qwen3_5_moe", "Qwen3_5Moe") if config.text.num_experts else ("qwen3_5", "Qwen3_5")
    vision = tower_to_hf(config.vision, tower.CONFIG_NAMES, f"{kind}_vision")
    own = {"image_token_id": config.image_token, "tie_word_embeddings": config.text.tied}
    named = {"model_type": kind, "architectures": [f"{name}ForConditionalGeneration"]}
    return named | own | {"text_config": qwen3_5.to_hf(config.text), "vision_config": vision}


def published_name(name: str) -> str:
    """The checkpoint's name of our parameter; {e} stays for the experts."""
    return checkpoint_name(name, NAMES, "Qwen3.5")


def unused(config: Config, names: Collection[str]) -> tuple[str, ...]:
    """Prefixes of the tensors that are not read: the text model's."""
    return qwen3_5.unused_text(config.text, names)
