"""Kimi K2.5: DeepSeek-V3's text model with other sizes, and an eye.

MoonViT looks at each image, a projector makes vectors as wide as the text model out of its cells, and they stand where
the text has placeholders. From there on they are tokens like others: positions count on, each sees those before it.
Built in lessons `mla` (attention), `experts` (experts) and `forms_and_pdfs` (vision).
Source: Kimi Team, "Kimi K2.5", 2026 (arXiv 2602.02276); transformers' ``modeling_kimi_k25.py``.
"""

from collections.abc import Mapping

from torch import nn

from helpers.layers.kv_cache import Cache
from helpers.layers.ragged import arrange, known
from helpers.models.configs.kimi_k25 import Config
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.shapes import Bool, Float, Int, Tensor
from helpers.vision import images as pictures
from helpers.vision import moonvit


class KimiK25(nn.Module):
    """Token ids and images in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.text = DeepSeekV3(config.text)
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
