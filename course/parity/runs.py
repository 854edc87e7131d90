"""What `python3 -m course parity` runs: texts, images and drafts, as transformers reads them and as we do.

A row is a table of three lines, one column a token: the token, the one after it, and which picture begins there. So
padding, splitting and batching treat all three alike, whatever is asked of the model.
"""

import importlib
import inspect
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from course.parity.configs import CONFIGS, Tiny

CACHES = ("none", "one prefill", "split")
PADDINGS = ("none", "left", "right")
TEXT, IMAGES, DRAFT = "text", "images", "draft"
LENGTH, SHORT, TAIL = 40, 30, 4  # tokens of the first row, of the padded one, and those that "split" reads one by one
TOKEN, AFTER, PICTURE = range(3)  # the lines of a row
FILLER = torch.tensor([1, 1, 0])  # of padding: a token that looks real, and no picture
# Where pictures begin, and their height and width in cells. None crosses the middle of a padded or unpadded row.
PLACES = (((5, (2, 3)), (23, (2, 2))), ((3, (1, 4)), (21, (3, 2))))
DRAFTER = "drafter.safetensors"  # transformers' own names: it does not read the published ones of a tiny model


class Prompts(NamedTuple):
    """Rows to read, and the pictures in them, in reading order."""

    rows: list[torch.Tensor]  # 3 x T each
    pictures: list[dict[str, torch.Tensor]]


def tasks(family: str) -> tuple[str, ...]:
    """What a family is compared in: all read text, some see, one drafts."""
    sizes = CONFIGS[family].sizes
    return (TEXT, *[IMAGES] * ("vision_config" in sizes), *[DRAFT] * (sizes.get("num_nextn_predict_layers") or 0))


def prompts(family: str, task: str) -> Prompts:
    """Two texts of random tokens, and with ``IMAGES`` two pictures in each."""
    sizes = CONFIGS[family].sizes
    vocabulary = min(sizes.get("image_token_id", 10**9), sizes.get("text_config", sizes)["vocab_size"])
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(vocabulary, (LENGTH + TAIL + 1,), generator=generator) for _ in range(2)]
    rows = [torch.stack([text[:-1], text[1:], torch.zeros_like(text[1:])]) for text in texts]
    if task != IMAGES:
        return Prompts(rows, [])
    pictures = [random_picture(CONFIGS[family], cells, generator) for places in PLACES for _, cells in places]
    number = iter(range(1, len(pictures) + 1))
    for row, places in zip(rows, PLACES, strict=True):
        for column, (height, width) in places:
            row[TOKEN, column : column + height * width] = sizes["image_token_id"]
            row[PICTURE, column] = next(number)
    return Prompts(rows, pictures)


def random_picture(tiny: Tiny, cells: tuple[int, int], generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Pixels of one image, as the family's processor returns them: a cell is two by two patches."""
    side, (height, width) = tiny.sizes["vision_config"]["patch_size"], (2 * size for size in cells)
    patch = (3, side, side) if tiny.config == "Kimi_K25Config" else (3 * 2 * side * side,)  # Qwen's has two frames
    grid = torch.tensor([[1, height, width]])
    return {"pixel_values": torch.randn(height * width, *patch, generator=generator), "image_grid_thw": grid}


def beginning_in(rows: torch.Tensor, pictures: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor] | None:
    """The pictures that begin in these columns (B x 3 x columns), row after row; None where there are none."""
    numbers = rows[:, PICTURE][rows[:, PICTURE] > 0].tolist()
    found = [pictures[number - 1] for number in numbers]
    return {key: torch.cat([one[key] for one in found]) for key in found[0]} if found else None


def save_random(family: str, folder: Path) -> None:
    """transformers' tiny model with every number random: a norm of one or a table of zeros hides that it is unused."""
    torch.manual_seed(0)
    tiny = CONFIGS[family]
    model = named(tiny.model)._from_config(named(tiny.config)(**tiny.sizes))
    randomise_all(model, tiny.sizes)
    model.save_pretrained(folder)
    if DRAFT in tasks(family):
        drafter = mtp(model)
        randomise_all(drafter.layers, tiny.sizes)
        save_drafter(drafter, len(model.model.layers), folder)


def named(name: str) -> type:
    """A class of transformers, whose import takes seconds, and which talks and draws bars where a table is wanted."""
    transformers = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # it does not know the drafter of a model as small as ours
    return getattr(transformers, name)


def mtp(model: nn.Module) -> nn.Module:
    """transformers' drafter over a model of its own; the model alone does not load one."""
    return importlib.import_module("transformers.modeling_layers").MtpModel(model, 1).eval()


@torch.no_grad()
def randomise_all(model: nn.Module, sizes: dict) -> None:
    """Every tensor that is saved, buffers too."""
    for name, tensor in model.state_dict().items():
        randomise(name, tensor, sizes)


def randomise(name: str, tensor: torch.Tensor, sizes: dict) -> None:
    """In place: matrices small, vectors around one where they scale and around zero where they shift."""
    if not tensor.is_floating_point():  # a table of experts: each token's are different ones
        chances = torch.rand(len(tensor), sizes["n_routed_experts"])
        tensor.copy_(chances.argsort(dim=-1)[:, : tensor.shape[1]])
    elif tensor.dim() == 1:
        around = 1.0 if name.endswith("norm.weight") else -2.0 if name.endswith("A_log") else 0.0
        tensor.copy_(around + 0.2 * torch.randn(tensor.shape))
    else:
        tensor.copy_(0.1 * torch.randn(tensor.shape))


def save_drafter(drafter: nn.Module, number: int, folder: Path) -> None:
    """Beside the model as it is published, behind its last block; and apart as transformers' drafter has it."""
    save_file(drafter.layers.state_dict(), folder / DRAFTER)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in drafter.layers.state_dict().items():
        name = name.removeprefix("0.").replace("mtp_block.", "").replace("post_norm", "shared_head.norm")
        place = f"model.layers.{number}.{name}"
        if name.endswith("experts.gate_up_proj"):
            for e, both in enumerate(tensor):
                for kind, one in zip(("gate_proj", "up_proj"), both.chunk(2), strict=True):
                    weights[place.replace("gate_up_proj", f"{e}.{kind}.weight")] = one.clone()
        elif name.endswith("experts.down_proj"):
            weights |= {place.replace("down_proj", f"{e}.down_proj.weight"): one for e, one in enumerate(tensor)}
        else:
            weights[place] = tensor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def reference(
    family: str, folder: Path, task: str, dtype: torch.dtype, device: torch.device, given: Prompts
) -> list[torch.Tensor]:
    """transformers' logits of each row alone, whole and without a cache."""
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = named(CONFIGS[family].model).from_pretrained(folder, dtype=dtype, **plain).eval().to(device)
    if task == DRAFT:
        drafter = mtp(model)
        drafter.layers.load_state_dict(load_file(folder / DRAFTER))
        return [their_draft(model, drafter.to(dtype).to(device), row.to(device)).cpu() for row in given.rows]
    return [their_logits(model, row.to(device), beginning_in(row[None], given.pictures)).cpu() for row in given.rows]


def their_logits(model: nn.Module, row: torch.Tensor, images: dict[str, torch.Tensor] | None) -> torch.Tensor:
    """Of one row. Qwen3.5 wants to be told which tokens are an image's, and remembers the last call's places."""
    ids, more = row[TOKEN][None], {}
    if images is not None:
        more = placed(images, model)
        if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
            more["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    if hasattr(model.model, "rope_deltas"):
        model.model.rope_deltas = None
    return model(input_ids=ids, use_cache=False, **more).logits[0]


def their_draft(model: nn.Module, drafter: nn.Module, row: torch.Tensor) -> torch.Tensor:
    """The drafter's logits of one row, from the model's own last states and the tokens after each."""
    hidden = model(input_ids=row[TOKEN][None], use_cache=False, output_hidden_states=True).hidden_states[-1]
    positions = torch.arange(1, row.shape[1] + 1, device=row.device)[None]
    drafted = drafter.forward_layer(0, hidden, positions, None, input_ids=row[AFTER][None])
    return drafter._project_to_logits(drafted)[0]


def run(model: nn.Module, given: Prompts, task: str, cache: str, padding: str) -> list[torch.Tensor]:
    """Our logits of each row, all rows in one batch; with padding the second row is shorter."""
    memory = None if cache == "none" else model.new_cache()
    drafts = model.new_draft_cache() if task == DRAFT and memory is not None else None
    columns, mask, cuts = laid_out(given.rows, cache, padding)
    pieces = zip(columns.split(cuts, dim=2), mask.split(cuts, dim=1), strict=True)
    logits = torch.cat([call(model, *piece, given.pictures, task, memory, drafts) for piece in pieces], dim=1)
    return [row[real] for row, real in zip(logits, mask, strict=True)]


def laid_out(rows: list[torch.Tensor], cache: str, padding: str) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """The batch (B x 3 x C), True at its real tokens, and how many columns each call reads.

    "split" reads prompts of unequal length in two halves, and then TAIL tokens of all rows one by one.
    """
    ends = (LENGTH, LENGTH if padding == "none" else SHORT)
    if cache != "split":
        texts = [row[:, : end + TAIL] for row, end in zip(rows, ends, strict=True)]
        return *side_by_side(texts, padding), (LENGTH + TAIL,)
    prompts = side_by_side([row[:, :end] for row, end in zip(rows, ends, strict=True)], padding)
    newest = side_by_side([row[:, end : end + TAIL] for row, end in zip(rows, ends, strict=True)], "none")
    columns, mask = (torch.cat(both, dim=-1) for both in zip(prompts, newest, strict=True))
    return columns, mask, (LENGTH // 2, LENGTH // 2, *[1] * TAIL)


def side_by_side(rows: list[torch.Tensor], padding: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as one batch, padded where they are shorter, and True where they are not."""
    longest = max(row.shape[1] for row in rows)
    columns = FILLER[:, None].repeat(len(rows), 1, longest)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for n, row in enumerate(rows):
        where = slice(longest - row.shape[1], None) if padding == "left" else slice(row.shape[1])
        columns[n, :, where], mask[n, where] = row, True
    return columns, mask


def call(
    model: nn.Module,
    columns: torch.Tensor,
    mask: torch.Tensor,
    pictures: list[dict[str, torch.Tensor]],
    task: str,
    memory: object | None = None,
    drafts: object | None = None,
) -> torch.Tensor:
    """Our logits of one call's columns (B x 3 x C): of the next token, or with ``DRAFT`` of the one after it."""
    device = next(model.parameters()).device
    columns, mask = columns.to(device), None if mask.all() else mask.to(device)  # both ways to call are used
    if task == DRAFT:
        return model.draft(model.read(columns[:, TOKEN], memory, mask), columns[:, AFTER], drafts, mask).cpu()
    images = beginning_in(columns, pictures)
    return model(columns[:, TOKEN], memory, mask, None if images is None else placed(images, model)).cpu()


def placed(images: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Images where the model is, pixels in its dtype."""
    like = next(model.parameters())
    return {"pixel_values": images["pixel_values"].to(like), "image_grid_thw": images["image_grid_thw"].to(like.device)}
