"""The parts of a model by the names of its weights: attention, experts, router, head and the rest.

Names are ours (``blocks.3.attention.query.weight``), or those of checkpoints and of transformers
(``model.layers.3.self_attn.q_proj.weight``). One word has two meanings: ``mlp.gate`` is a matrix of the dense FFN
here, and the router there; so each part has marks for either.
"""

from typing import NamedTuple


class Part(NamedTuple):
    """What the names of a part's weights hold, and what it does."""

    ours: tuple[str, ...]  # words of a name, between dots
    published: tuple[str, ...]
    what: str


# The first part that fits owns a weight: an indexer lies in attention, and a shared gate beside the experts.
PARTS = {
    "vision": Part(
        ("vision", "projector"),
        ("visual", "vision_tower", "mm_projector", "multi_modal_projector"),
        "the tower that reads images, and what joins it to the text model",
    ),
    "embedding": Part(("embedding",), ("embed_tokens",), "a vector for each token of the vocabulary"),
    "head": Part(
        ("head",), ("lm_head", "head"), "from the last vector to a logit for each token; may be the embedding"
    ),
    "router": Part(
        ("router", "shared_gate"),
        ("mlp.gate", "mlp.router", "mlp.shared_expert_gate", "feed_forward.router", "ffn.gate"),
        "which experts a token goes to, and how much the shared one counts",
    ),
    "indexer": Part(("indexer",), ("indexer",), "which tokens or entries sparse attention reads"),
    "routed experts": Part(
        ("experts",), ("mlp.experts", "feed_forward.experts", "ffn.experts"), "the experts that a router chooses among"
    ),
    "shared expert": Part(
        ("shared",),
        ("mlp.shared_expert", "mlp.shared_experts", "feed_forward.shared_expert", "ffn.shared_experts"),
        "the expert that every token uses",
    ),
    "attention": Part(("attention",), ("self_attn", "attn"), "queries, keys, values, latents, compressors, output"),
    "delta": Part(("delta",), ("linear_attn",), "Gated DeltaNet, attention's place in most blocks of Qwen3.5"),
    "dense FFN": Part(("mlp",), ("mlp", "feed_forward", "ffn"), "the feed-forward layer of a block without experts"),
    "drafter": Part(("join",), ("eh_proj",), "what joins a text and its next token in a drafter"),
}
REST = "norms and the rest"  # mixing of streams, rotary frequencies
PUBLISHED = ("model", "layers", "lm_head", "visual")  # a name with one of these words is none of ours


def part_of(name: str) -> str:
    """The part of the model that a weight or a layer of this name belongs to. Built in lesson `open_a_model`."""
    published = any(_has(name, mark) for mark in PUBLISHED)
    for title, part in PARTS.items():
        if any(_has(name, mark) for mark in (part.published if published else part.ours)):
            return title
    return REST


def _has(name: str, mark: str) -> bool:
    return f".{mark}." in f".{name}."
