"""A Kimi K2.5 in numbers and names: its sizes, config.json's words for them, the checkpoint's tensors.

Source: transformers' ``Kimi_K25Config`` and the files that Moonshot AI published.
"""

from dataclasses import dataclass, replace

from helpers.models.configs import deepseek_v3
from helpers.models.published import check_features, checkpoint_name, tower_to_hf, under
from helpers.vision import moonvit


@dataclass(frozen=True)
class Config:
    """The sizes of one model. The published names stand in CONFIG_NAMES."""

    text: deepseek_v3.Config
    vision: moonvit.Config
    image_token: int = 163605  # the placeholder
    projector_epsilon: float = 1e-5

    def __post_init__(self):
        if self.text.num_drafters:
            raise ValueError("Kimi K2.5 has no drafter: num_nextn_predict_layers must be 0")

    @property
    def num_blocks(self) -> int:
        """Blocks of the text model."""
        return self.text.num_blocks


CONFIG_NAMES = {  # ours -> config.json's
    "text": "text_config",
    "vision": "vision_config",
    "image_token": "image_token_id",
    "projector_epsilon": "projection_layer_norm_eps",
}
TEXT = ("deepseek_v3", "kimi_k2")  # what text_config may say that it is
OLDER = {  # transformers' names -> those of the files that Moonshot AI published
    "image_token_id": "media_placeholder_token_id",
    "projection_layer_norm_eps": "projector_ln_eps",  # in vision_config
}

# Ours -> the published checkpoint's; {n} is the block, {e} the expert.
NAMES = {
    **{
        f"text.{ours}": f"language_model.{theirs}"
        for ours, theirs in deepseek_v3.NAMES.items()
        if not ours.startswith("drafters.")
    },
    **under("vision.", "vision_tower.", moonvit.NAMES),
    **{
        f"projector.{ours}.{kind}": f"mm_projector.{theirs}.{kind}"
        for kind in ("weight", "bias")
        for ours, theirs in {"norm": "pre_norm", "up": "proj.0", "down": "proj.2"}.items()
    },
}
WRITTEN = {  # how a name begins in what transformers 5.23 writes -> in the published files
    "language_model.model.blocks.": "language_model.model.layers.",
    "model.mm_projector.": "mm_projector.",
    "vision_tower.encoder.patch_embed.": "vision_tower.patch_embed.",
}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary. ValueError where a part is missing or a feature is asked that is not here."""
    if missing := [name for name in ("text_config", "vision_config") if not isinstance(published.get(name), dict)]:
        raise ValueError(f"config.json lacks {', '.join(missing)}")
    check_features(published, {}, "Kimi K2.5")
    check_features(published["text_config"], {"model_type": TEXT}, "Kimi K2.5")
    vision = moonvit.from_hf(published["vision_config"])
    if (width := published.get("projection_hidden_size", vision.width)) != vision.width:
        raise ValueError(f"config.json has projection_hidden_size={width}; the tower's width is {vision.width}")
    tied = published.get("tie_word_embeddings", published["text_config"].get("tie_word_embeddings"))
    text = deepseek_v3.from_hf({**published["text_config"], "tie_word_embeddings": tied})
    # Left out, transformers writes DeepSeek-V3's 1; no published file of this family has a drafter.
    return Config(replace(text, num_drafters=0), vision, **_own(published))


def _own(published: dict) -> dict:
    """The settings that belong to neither part, as far as config.json gives them."""
    older = {**published["vision_config"], **published}
    flat = {**{new: older[old] for new, old in OLDER.items() if old in older}, **published}
    ours = ("image_token", "projector_epsilon")
    return {name: flat[CONFIG_NAMES[name]] for name in ours if flat.get(CONFIG_NAMES[name]) is not None}


def to_hf(config: Config) -> dict:
    """The dictionary of a config.json that transformers and ``from_hf`` read."""
    vision = tower_to_hf(config.vision, moonvit.CONFIG_NAMES, "kimi_k25_vision")
    vision["merge_kernel_size"] = [config.vision.merge, config.vision.merge]
    own = {"image_token_id": config.image_token, "tie_word_embeddings": config.text.tied}
    own |= {"projection_hidden_size": config.vision.width, "projection_layer_norm_eps": config.projector_epsilon}
    named = {"model_type": "kimi_k25", "architectures": ["Kimi_K25ForConditionalGeneration"]}
    return named | own | {"text_config": deepseek_v3.to_hf(config.text), "vision_config": vision}


def published_name(name: str) -> str:
    """The published checkpoint's name of our parameter; {e} stays for the experts."""
    return checkpoint_name(name, NAMES, "Kimi K2.5")


def rename(name: str) -> str:
    """What transformers 5.23 writes -> the published name: its writing does not quite undo its reading."""
    written = next((written for written in WRITTEN if name.startswith(written)), "")
    return WRITTEN.get(written, "") + name.removeprefix(written)
