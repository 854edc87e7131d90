"""Words of config.json that stand twice: at two levels, or under an old and a new name.

Where two of the rotary words disagree, transformers' order decides (``RotaryEmbeddingConfigMixin`` in
``modeling_rope_utils``): ``rope_scaling``, the older name, goes before ``rope_parameters``; inside, ``rope_type`` goes
before its older name ``type``; theta and the share that is turned go before the same words beside the sizes. YaRN's
original context is the exception: beside the sizes it goes before the one inside. Two names of one size must agree.
"""

from collections.abc import Mapping

INSIDE = ("rope_type", "rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved")
BESIDE = ("rope_theta", "partial_rotary_factor")  # that count beside the sizes too
CONTEXT = "original_max_position_embeddings"


def rotary_object(published: dict) -> dict:
    """The object with rotary settings, as it stands; empty where there is none. ValueError where it is no object."""
    rope = published.get("rope_scaling") or published.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"config.json has rope_parameters={str(rope)[:40]!r} where it must be an object")
    return rope


def rope_type(rope: dict) -> object:
    """How positions turn, by its name now or before transformers 4.43; "default" where nothing is said."""
    return rope.get("rope_type", rope.get("type", "default"))


def rotary_settings(published: dict) -> dict:
    """What config.json says of rotary positions, each word once.

    ValueError where kinds of layers have settings of their own, as no family that reads them here has.
    """
    rope = rotary_object(published)
    if apart := [name for name, value in rope.items() if isinstance(value, dict)]:
        raise ValueError(f"config.json has rotary settings of their own for {', '.join(apart)}; allowed is one for all")
    beside = {name: published[name] for name in BESIDE if published.get(name) is not None}
    context = {CONTEXT: published[CONTEXT]} if CONTEXT in published else {}
    return {**beside, **rope, "rope_type": rope_type(rope), **context}


def flattened(published: dict) -> dict:
    """config.json with its rotary settings beside the sizes, where files before transformers 5 have them."""
    rope = rotary_settings(published)
    sizes = {name: value for name, value in published.items() if name not in INSIDE}
    return {**sizes, **{name: rope[name] for name in INSIDE if name in rope}}


def by_one_name(published: dict, other_names: Mapping[str, str]) -> dict:
    """config.json with each setting under one name: ``other_names`` are other name -> the one that is read here.

    ValueError where it has both, with different values: which of the two transformers obeys differs word by word.
    """
    for other, name in other_names.items():
        if other in published and published.get(name, published[other]) != published[other]:
            values = f"{name}={published[name]!r} and {other}={published[other]!r}"
            raise ValueError(f"config.json has {values}, two names of one setting; they must be equal")
    return {**{name: published[other] for other, name in other_names.items() if other in published}, **published}
