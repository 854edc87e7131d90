"""The tiny models that the project trained itself, each a folder in Hugging Face's own format with a model card."""

import json
from pathlib import Path

ZOO = Path(__file__).parent


def names() -> list[str]:
    """The models that are here."""
    return sorted(path.parent.name for path in ZOO.glob("*/model.safetensors"))


def folder(name: str) -> Path:
    """Where the model lies, for ``AutoModelForCausalLM.from_pretrained`` or ``helpers.checkpoints.load``.

    Raises ValueError where the zoo has no model of that name.
    """
    if name not in names():
        raise ValueError(f"the zoo has no model {name!r}; it has {', '.join(names()) or 'none yet'}")
    return ZOO / name


def read_card(folder: Path) -> dict:
    """The ``card.json`` of a model's folder: every number that is said of it."""
    return json.loads((folder / "card.json").read_text(encoding="utf-8"))
