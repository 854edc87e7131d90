"""Write a trained model as a folder that transformers, ``helpers.checkpoints`` and any other reader can open."""

import copy
import json
from pathlib import Path

import torch
from torch import nn

from helpers.checkpoints import save
from helpers.files import write_whole
from helpers.zoo.card import facts, readme
from helpers.zoo.follow import Made
from helpers.zoo.recipe import Recipe
from helpers.zoo.tokenizer import END


def publish(folder: Path, recipe: Recipe, made: Made, others: dict[str, dict] | None = None) -> dict:
    """Round the weights to bfloat16, measure them, write the folder; the card is returned. ``others``: see ``facts``.

    The model is left with the rounded weights. The weights are written last: a folder that has them is whole.
    """
    model, tokenizer = made.model, made.tokenizer
    round_to_bfloat16(model)
    card = facts(recipe, made, others)
    end = tokenizer.token_to_id(END)
    _write(folder / "generation_config.json", {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end})
    _write(folder / "tokenizer_config.json", _tokenizer_config(context(recipe.config)))
    _write(folder / "card.json", card)
    write_whole(folder / "tokenizer.json", tokenizer.to_str() + "\n")
    write_whole(folder / "README.md", readme(card))
    save(copy.deepcopy(model).bfloat16(), folder)
    return card


def round_to_bfloat16(model: nn.Module) -> None:
    """Give every weight the value that bfloat16 keeps of it; the dtype stays, so that computing stays exact."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.bfloat16())


def context(config) -> int:
    """Positions that the model was made for; a model that sees has them in the sizes of its text part."""
    return getattr(config, "text", config).context


def _tokenizer_config(longest: int) -> dict:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
    }


def _write(path: Path, content: dict) -> None:
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
