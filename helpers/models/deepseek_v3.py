"""DeepSeek-V3: latent attention, so that the cache is small; few experts of many, so that the work is small; and a
drafter that guesses the token after the next one. Kimi K2's text model is the same with other sizes.

Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 2; transformers' ``modeling_deepseek_v3.py`` and
``MtpLayer``. Built in lessons `mla` (attention), `experts` (experts) and `mtp` (drafter).
"""

import torch
from torch import nn

from helpers.layers.kv_cache import Cache
from helpers.layers.mla import MLA, Latents
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import RMSNorm
from helpers.layers.ragged import Rows, arrange, known
from helpers.layers.rope import angles_of_yarn, frequencies
from helpers.models.configs.deepseek_v3 import Config
from helpers.models.text_only import text_only
from helpers.moe.moe_layer import sigmoid_moe
from helpers.moe.routers import RouterConfig
from helpers.shapes import Bool, Float, Int, Tensor


class Block(nn.Module):
    """One layer of the decoder: latent attention, then experts or the dense layer, each normalised and added back."""

    def __init__(self, config: Config, dense: bool):
        super().__init__()
        c = config
        self.attention_norm = RMSNorm(c.width, c.norm_epsilon)
        heads = (c.nope_dim, c.rotary_dim, c.value_dim)
        self.attention = MLA(c.width, c.num_heads, c.query_rank, c.latent_width, *heads, c.scale)
        self.mlp_norm = RMSNorm(c.width, c.norm_epsilon)
        router = RouterConfig(c.experts_per_token, c.num_groups, c.groups_per_token, c.routed_scale, c.normalised)
        experts = (c.expert_width, c.num_experts, c.num_shared)
        self.mlp = SwiGLU(c.width, c.mlp_width) if dense else sigmoid_moe(c.width, *experts, router)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: Latents | None = None,
    ) -> Float[Tensor, "B T D"]:
        normed, x = self.mlp_norm.add(self.attention(self.attention_norm(x), rows, rotary, cache), x)
        return x + self.mlp(normed)


class Drafter(nn.Module):
    """Multi-token prediction: what the model made of token t and the embedding of token t + 1 give token t + 2.

    One block of its own; embedding and head are the model's.
    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, equations 21 to 23. Built in lesson `mtp`.
    """

    def __init__(self, config: Config):
        super().__init__()
        width, epsilon = config.width, config.norm_epsilon
        self.token_norm = RMSNorm(width, epsilon)
        self.hidden_norm = RMSNorm(width, epsilon)
        self.join = nn.Linear(2 * width, width, bias=False)
        self.block = Block(config, dense=False)
        self.norm = RMSNorm(width, epsilon)

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        tokens: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: Latents | None = None,
    ) -> Float[Tensor, "B T D"]:
        both = torch.cat([self.token_norm(tokens), self.hidden_norm(hidden)], dim=-1)
        return self.norm(self.block(self.join(both), rows, rotary, cache))


class DeepSeekV3(nn.Module):
    """Token ids in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, n < config.num_dense_blocks) for n in range(config.num_blocks))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)
        # Named by its number in the checkpoint, where it stands behind the last block.
        numbered = {str(config.num_blocks + n): Drafter(config) for n in range(config.num_drafters)}
        self.drafters = nn.ModuleDict(numbered)

    @text_only
    def forward(
        self, token_ids: Int[Tensor, "B T"], cache: Cache | None = None, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T vocab"]:
        """With a cache, ``token_ids`` are the next tokens after those it has read. ``mask`` is True for real tokens:
        in a padded batch, left or right, each row gets the answer that it gets alone."""
        return self.logits(self.read(token_ids, cache, mask))

    def read(
        self, token_ids: Int[Tensor, "B T"], cache: Cache | None = None, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """What the model makes of each token: what ``logits`` and ``draft`` take."""
        rows = arrange(token_ids, mask, None) if cache is None else cache.begin(token_ids, mask)
        x = self.embedding(known(rows.token_ids, self.config.vocab_size))
        return rows.restore(self.decode(x, rows, cache))

    def decode(self, x: Float[Tensor, "B T D"], rows: Rows, cache: Cache | None = None) -> Float[Tensor, "B T D"]:
        """Through all blocks, and normed: ``x`` may hold pieces of an image among the words. Columns are ``rows``'."""
        rotary = self.rotary(rows.positions, x.dtype)
        for n, block in enumerate(self.blocks):
            x = block(x, rows, rotary, None if cache is None else cache.blocks[n])
        if cache is not None:
            cache.end(rows)
        return self.norm(x)

    def logits(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T vocab"]:
        """One logit for each token of the vocabulary."""
        return hidden @ (self.head or self.embedding).weight.mT

    def draft(
        self,
        hidden: Float[Tensor, "B T D"],
        next_token_ids: Int[Tensor, "B T"],
        cache: Cache | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T vocab"]:
        """Logits of the token after the next: ``hidden`` is ``read``'s of token t, ``next_token_ids`` is token t + 1.

        ``cache`` is one of ``new_draft_cache``, apart from the model's own. ValueError for a model without a drafter.
        """
        return self.logits(self.ahead(hidden, next_token_ids, cache, mask))

    def ahead(
        self,
        hidden: Float[Tensor, "B T D"],
        next_token_ids: Int[Tensor, "B T"],
        cache: Cache | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """What the drafter makes of ``hidden`` and the next token: what ``logits`` takes, or ``ahead`` once more."""
        if not self.drafters:
            raise ValueError("this model has no drafter (num_nextn_predict_layers is 0)")
        rows = arrange(next_token_ids, mask, None) if cache is None else cache.begin(next_token_ids, mask)
        if rows.order is not None:
            hidden = hidden.gather(1, rows.order[..., None].expand(-1, -1, hidden.shape[2]))
        (drafter,), entry = self.drafters.values(), None if cache is None else cache.blocks[0]
        rotary = self.rotary(rows.positions, hidden.dtype)
        x = self.embedding(known(rows.token_ids, self.config.vocab_size))
        drafted = drafter(hidden, x, rows, rotary, entry)
        if cache is not None:
            cache.end(rows)
        return rows.restore(drafted)

    def rotary(self, positions: Int[Tensor, "B T"], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The cosines and sines of the positions, made anew: a buffer is one more thing to load."""
        c = self.config
        radians = frequencies(c.rotary_dim, c.rope_theta, positions.device)
        return angles_of_yarn(positions, radians, c.rope_theta, c.yarn, dtype)

    def new_cache(self) -> Cache:
        """An empty cache for one batch of sequences: latents only."""
        return Cache([Latents() for _ in self.blocks])

    def new_draft_cache(self) -> Cache:
        """An empty cache for ``draft``: per token it takes what one more block takes."""
        return Cache([Latents() for _ in self.drafters])
