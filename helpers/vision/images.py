"""From a processor's images to vectors among the words: what is checked, in which order patches stand, where they go.

A processor cuts each image into square patches and writes a placeholder token for every cell of ``merge`` x ``merge``
patches. The tower makes one vector of each cell, and it takes the placeholder's place among the embeddings.
"""

from collections.abc import Mapping

import torch

from helpers.layers.kv_cache import Cache
from helpers.layers.ragged import Rows
from helpers.shapes import Bool, Float, Int, Tensor

KEYS = ("pixel_values", "image_grid_thw")


def unpack(
    images: Mapping[str, Tensor], patch: tuple[int, ...], merge: int
) -> tuple[Float[Tensor, " patches *patch"], list[tuple[int, int]]]:
    """The pixels of all images and each image's (rows, columns) of patches, out of what a processor returns.

    ``patch`` is the shape of one patch. Raises ValueError where the grids do not fit the pixels, or for a video.
    Built in lesson `forms_and_pdfs`.
    """
    if not isinstance(images, Mapping) or set(images) != {*KEYS}:
        held = ", ".join(map(str, images)) if isinstance(images, Mapping) else f"a {type(images).__name__}"
        raise ValueError(f"images holds {held or 'nothing'}; it must hold {' and '.join(KEYS)}")
    pixels, grids = (images[key] for key in KEYS)
    if grids.dim() != 2 or grids.shape[1] != 3 or not len(grids) or grids.is_floating_point():
        given = f"{grids.dtype} of the shape {tuple(grids.shape)}"
        raise ValueError(f"image_grid_thw is {given}; it must be whole numbers of the shape (images, 3)")
    for n, grid in enumerate(grids.tolist()):
        _check_grid(n, *grid, merge)
    if tuple(pixels.shape[1:]) != patch:
        raise ValueError(f"pixel_values have the shape {tuple(pixels.shape)}; it must be (patches, *{patch})")
    if len(pixels) != (needed := int(grids.prod(dim=1).sum())):
        raise ValueError(f"pixel_values hold {len(pixels)} patches, and the grids {grids.tolist()} need {needed}")
    return pixels, [(height, width) for _, height, width in grids.tolist()]


def _check_grid(n: int, time: int, height: int, width: int, merge: int) -> None:
    if time != 1:
        raise ValueError(f"image {n} has {time} frames: only still images are read here, and no video")
    if height < 1 or width < 1 or height % merge or width % merge:
        raise ValueError(f"image {n} is {height} x {width} patches; both must be multiples of {merge}")


def in_cells(x: Float[Tensor, "height width *rest"] | Int[Tensor, "height width *rest"], merge: int) -> Tensor:
    """A grid of patches as one row, cell after cell: the ``merge`` x ``merge`` patches of a cell are neighbours.

    With ``merge`` 1, row after row. Built in lesson `forms_and_pdfs`.
    """
    return x.unflatten(1, (-1, merge)).unflatten(0, (-1, merge)).transpose(1, 2).flatten(0, 3)


def places(height: int, width: int, device: torch.device | None = None) -> Int[Tensor, "height width 2"]:
    """The row and the column of each place of a grid. Built in lesson `forms_and_pdfs`."""
    axes = [torch.arange(size, device=device) for size in (height, width)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def only_words(images: Mapping[str, Tensor] | None, cache: Cache | None) -> bool:
    """Whether no image can stand in the next tokens: the model wrote them itself. Known without a look at them."""
    return images is None and cache is not None and cache.words_only


def placeholders(
    rows: Rows, image_token: int, images: Mapping[str, Tensor] | None, cache: Cache | None
) -> Bool[Tensor, "B T"]:
    """Where the vectors of images go. Nowhere in what the model wrote itself: no image is missing there, as for
    transformers' models."""
    if only_words(images, cache):
        return torch.zeros_like(rows.token_ids, dtype=torch.bool)
    return rows.token_ids.eq(image_token) & rows.real


def merge_image_features(
    x: Float[Tensor, "B T D"],
    placeholders: Bool[Tensor, "B T"],
    features: Float[Tensor, "cells D"] | None,
    cells: list[tuple[int, int]],
) -> Float[Tensor, "B T D"]:
    """``x`` with the images' vectors in place of the placeholders, in reading order, row after row.

    ``cells`` are the height and the width of each image in cells. Raises ValueError where there are more or fewer
    placeholders than vectors, or those of one image are not together. Built in lesson `forms_and_pdfs`.
    """
    counts, needed = [height * width for height, width in cells], int(placeholders.sum())
    if needed != sum(counts):
        raise ValueError(f"the tokens hold {needed} image placeholders, and the images make {sum(counts)} vectors")
    if features is None:
        return x
    for n, (row, column) in enumerate(one.T.tolist() for one in placeholders.nonzero().split(counts)):
        if row[0] != row[-1] or column[-1] - column[0] != counts[n] - 1:
            raise ValueError(f"image {n} is {cells[n][0]} x {cells[n][1]} cells; its placeholders are not together")
    return x.masked_scatter(placeholders[..., None], features.to(x.dtype))
