"""Kimi K2.5: DeepSeek-V3's text model with other sizes, and an eye.

MoonViT looks at each image, a projector makes vectors as wide as the text model out of its cells, and they stand where
the text has placeholders. From there on they are tokens like others: positions count on, each sees those before it.
Built in lessons `mla` (attention), `experts` (experts) and `forms_and_pdfs` (vision).
Source: Kimi Team, "Kimi K2.5", 2026 (arXiv 2602.02276); transformers' ``modeling_kimi_k25.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from helpers.layers.kv_cache import Cache
from helpers.layers.ragged import arrange, known
from helpers.models import deepseek_v3
from helpers.models.published import check_features, checkpoint_name
from helpers.shapes import Bool, Float, Int, Tensor
from helpers.vision import images as pictures
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
    **{f"vision.{ours}": f"vision_tower.{theirs}" for ours, theirs in moonvit.NAMES.items()},
    **{
        f"projector.{ours}.{kind}": f"mm_projector.{theirs}.{kind}"
        for kind in ("weight", "bias")
        for ours, theirs in {"norm": "pre_norm", "up": "proj.0", "down": "proj.2"}.items()
    },
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
    """What belongs to neither part, where it is given."""
    older = {**published["vision_config"], **published}
    flat = {**{new: older[old] for new, old in OLDER.items() if old in older}, **published}
    ours = ("image_token", "projector_epsilon")
    return {name: flat[CONFIG_NAMES[name]] for name in ours if flat.get(CONFIG_NAMES[name]) is not None}


def published_name(name: str) -> str:
    """The published checkpoint's name of our parameter; {e} stays for the experts."""
    return checkpoint_name(name, NAMES, "Kimi K2.5")


class KimiK25(nn.Module):
    """Token ids and images in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.text = deepseek_v3.DeepSeekV3(config.text)
        self.vision = moonvit.MoonViT(config.vision)
        members = config.vision.merge**2
        self.projector = moonvit.Projector(config.vision.width, members, config.text.width, config.projector_epsilon)

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        cache: Cache | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        images: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "B T vocab"]:
        """``images`` as the family's processor returns them: ``pixel_values`` and ``image_grid_thw`` of the images
        whose placeholders are in ``token_ids``, in reading order. ``cache`` and ``mask`` as in the text model.

        Raises ValueError where placeholders, grids and pixels do not fit.
        """
        rows = arrange(token_ids, mask, None) if cache is None else cache.begin(token_ids, mask)
        placeholders = pictures.placeholders(rows, self.config.image_token, images, cache)
        features = None if images is None else self.projector(self.vision(images))
        cells = [] if images is None else self.vision.cells(images)
        # A placeholder that no image fills, since the model wrote it, is read as token 0: transformers does so too.
        words = rows.token_ids.masked_fill(rows.token_ids.eq(self.config.image_token), 0)
        x = self.text.embedding(known(words, self.config.text.vocab_size))
        if not pictures.only_words(images, cache):
            x = pictures.merge_image_features(x, placeholders, features, cells)
        return rows.restore(self.text.logits(self.text.decode(x, rows, cache)))

    def new_cache(self) -> Cache:
        """An empty cache for one batch of sequences: the text model's latents; of an image nothing else is kept."""
        return self.text.new_cache()
