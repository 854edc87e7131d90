"""The parts of a published model by the names of its weights: attention, experts, router, head and the rest.

Names are those of checkpoints and of transformers; what holds our own layers is told by ``helpers.quant.parts``.
"""

OTHER = "other"  # norms, residual mixes, rotary frequencies

# The first part whose mark is in a weight's name owns it.
PARTS = (
    ("vision", ("visual.", "vision_tower.", "mm_projector.", "multi_modal_projector.")),
    ("embedding", ("embed_tokens.",)),
    ("head", ("lm_head.",)),
    ("attention", (".self_attn.", ".linear_attn.")),
    ("routed experts", (".mlp.experts.", ".feed_forward.experts.")),
    ("shared expert", (".mlp.shared_expert", ".feed_forward.shared_expert")),
    ("router", (".mlp.gate.", ".mlp.router.", ".feed_forward.router.")),
    ("dense FFN", (".mlp.", ".feed_forward.")),
)


def part(name: str) -> str:
    """The part of the model that a weight belongs to. Built in lesson `open_a_model`."""
    return next((title for title, marks in PARTS if any(mark in name for mark in marks)), OTHER)
