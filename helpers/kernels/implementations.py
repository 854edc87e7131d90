"""Which kernel stands for which readable function in a whole model: the table that ``helpers.use`` goes through.

A row's kernel has the signature of its readable function, so that a layer cannot tell them apart. Where the file of a
kernel wants something else (whole tensors where a layer has views, positions instead of a mask), a few lines here lead
from one to the other. Matrix products, softmax and what has no kernel run as torch has them; packed matrices have their
own table, ``helpers.kernels.quant.backends``. A kernel has no gradient, but for ``rms_norm``: where one is wanted its
wrapper computes by the readable function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps

from helpers.functions import Layer
from helpers.kernels import delta_rule, rms_norm
from helpers.kernels.attention import block_sparse, flash, index_scores, mla_decode, sparse_attention, top_k
from helpers.kernels.quant import experts
from helpers.kernels.quant.backends import GPU
from helpers.kernels.quant.dequantise import FORMATS
from helpers.layers import attention, delta, dsa, mla, norm
from helpers.layers import block_sparse as readable_blocks
from helpers.layers.delta import GatedDeltaNet
from helpers.layers.ragged import Rows
from helpers.moe import dispatch
from helpers.moe.dispatch import AnyExperts
from helpers.quant.experts import QuantisedExperts
from helpers.shapes import Bool, Float, Int, Tensor


def for_layers(readable: Callable, kernel: Callable) -> Callable:
    """``kernel`` for a layer's tensors, which are often views: each is made one piece of memory first.

    Where one of them is empty nothing is left for a kernel to do, and the readable function says what nothing is.
    """

    @wraps(kernel)
    def with_whole_tensors(*given):
        tensors = [x for x in given if isinstance(x, Tensor)]
        if not all(x.numel() for x in tensors):
            return readable(*given)
        return kernel(*(x.contiguous() if isinstance(x, Tensor) else x for x in given))

    return with_whole_tensors


def attend_causal(
    query: Float[Tensor, "B T H K"], key: Float[Tensor, "B S G K"], value: Float[Tensor, "B S G V"], rows: Rows
) -> Float[Tensor, "B T H V"]:
    """``flash.attend_causal``: positions are enough for it, and no mask is made."""
    return flash.attend_causal(query.contiguous(), key.contiguous(), value.contiguous(), rows.positions.contiguous())


def absorbed(
    query: Float[Tensor, "B T H K"],
    q_rope: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B S C"],
    k_rope: Float[Tensor, "B S R"],
    w_uk: Float[Tensor, "H K C"],
    w_uv: Float[Tensor, "H V C"],
    mask: Bool[Tensor, "B T S"],
    scale: float,
) -> Float[Tensor, "B T H V"]:
    """``mla_decode.absorbed`` with a whole cache; the matrices stay views, which torch multiplies as they lie."""
    cached = latent.contiguous(), k_rope.contiguous()
    return mla_decode.absorbed(query, q_rope, *cached, w_uk, w_uv, mask, scale)


def attend_chosen(
    query: Float[Tensor, "B T H K"],
    q_rope: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B S C"],
    k_rope: Float[Tensor, "B S R"],
    w_uk: Float[Tensor, "H K C"],
    w_uv: Float[Tensor, "H V C"],
    chosen: Int[Tensor, "B T chosen"],
    scale: float,
) -> Float[Tensor, "B T H V"]:
    """``sparse_attention.attend_chosen`` with a whole cache."""
    cached = latent.contiguous(), k_rope.contiguous()
    return sparse_attention.attend_chosen(query, q_rope, *cached, w_uk, w_uv, chosen, scale)


def dispatched(
    x: Float[Tensor, "tokens D"],
    indices: Int[Tensor, "tokens A"],
    weights: Float[Tensor, "tokens A"],
    given: AnyExperts,
) -> Float[Tensor, "tokens D"]:
    """``experts.dispatched`` of plain experts, and of packed ones whose matrices lie as kernels read them; of others
    the readable function, which still multiplies each matrix in the way that it has."""
    if isinstance(given, QuantisedExperts) and _laid_for_kernels(given):
        matrices = given.gate.tensors(), given.up.tensors(), given.down.tensors()
        given = experts.PackedStacks(given.down.name, *matrices, given.limit)
    if not isinstance(given, dispatch.Stacks | experts.PackedStacks):
        return dispatch.dispatched(x, indices, weights, given)
    return experts.dispatched(x.contiguous(), indices, weights, given)


def _laid_for_kernels(given: QuantisedExperts) -> bool:
    packed = given.gate, given.up, given.down
    return all(one.name in FORMATS and one.way is GPU[one.name] for one in packed)


def _too_wide_a_row(layer: Layer) -> str | None:
    width = len(layer.weight)
    return f"rows of {width} numbers; {rms_norm.WIDEST} fit one program" if width > rms_norm.WIDEST else None


def _too_wide_a_head(layer: GatedDeltaNet) -> str | None:
    width = max(layer.key_dim, layer.value_dim)
    return f"heads of {width} numbers; {delta_rule.WIDEST} fit one program" if width > delta_rule.WIDEST else None


def _no_tile(layer: readable_blocks.BlockSparse) -> str | None:
    sizes = ", ".join(map(str, block_sparse.BLOCKS))
    return None if layer.block in block_sparse.BLOCKS else f"blocks of {layer.block} positions; a tile has {sizes}"


@dataclass(frozen=True)
class Implementation:
    """One row: a function, the kernel for it, and what of a layer the kernel cannot take (None: it takes this one)."""

    readable: Callable
    kernel: Callable
    refuses: Callable[[Layer], str | None] = lambda layer: None


def row(readable: Callable, kernel: Callable, refuses: Callable[[Layer], str | None] = lambda layer: None):
    """A row whose kernel has the readable function's signature, and wants whole tensors."""
    return Implementation(readable, for_layers(readable, kernel), refuses)


TABLE = (
    row(norm.rms_norm, rms_norm.rms_norm, _too_wide_a_row),
    row(norm.add_rms_norm, rms_norm.add_rms_norm, _too_wide_a_row),
    Implementation(attention.attend_causal, attend_causal),
    row(readable_blocks.attend_blocks, block_sparse.attend_blocks, _no_tile),
    Implementation(mla.absorbed, absorbed),
    row(dsa.scores, index_scores.scores),
    row(dsa.select_tokens, top_k.select_tokens),
    Implementation(dsa.attend_chosen, attend_chosen),
    row(delta.chunked_delta_rule, delta_rule.chunked_delta_rule, _too_wide_a_head),
    Implementation(dispatch.dispatched, dispatched),
)
KERNELS = {one.readable: one for one in TABLE}
READABLE = {one.kernel: one.readable for one in TABLE}
