"""Tensors that some files hold and no reader needs: tables that the model computes from config.json.

Models written before 2023, and many by other tools since, stored the buffers of rotary positions, of causal masks and
of position ids with the weights. They are never read and so never compared: where one contradicts config.json, the
config has the word, as in transformers (``_adjust_missing_and_unexpected_keys``), which computes its own anew. A table
that somebody changed by hand, to stretch a model to longer texts, has no effect in either library.
"""

import re

ROTARY = r"(\w+_)?inv_freq|(cos|sin)_cached|(cos|sin)_cache|cos_sin_cache|freqs_cis|freqs_(cos|sin)"
IDS_AND_MASKS = r"position_ids|masked_bias|causal_mask"
TIME = r"pos_emb\.(time_weight|time_position_embeddings)"  # sines of the frame's number in Kimi K2.5's tower
RECOMPUTED = re.compile(rf"(^|\.)({ROTARY}|{IDS_AND_MASKS}|{TIME})$")


def is_recomputed(name: str) -> bool:
    """Whether a tensor of this name is computed from config.json, and what the files say of it is not used."""
    return RECOMPUTED.search(name) is not None
