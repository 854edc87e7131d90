"""One token after a long text through one attention layer of GLM-5's kind: transformers' layer and ours.

Both hold the same random weights and the same cache, and give the same answer, which is checked before any clock runs.
transformers makes the keys and values of the whole text anew, and bars those that were not chosen by a mask. Ours
scores the index keys and reads the latents that were chosen.

On a CPU (`dsa-decode`) ours runs twice: as it is written, and compiled, where a compiler is; transformers runs as it is
by default. Timings are interleaved, so that each of our calls finds the machine's caches as theirs left them: full of
other things. On a GPU (`sparse-layer`) ours runs by the kernels that `dsa_kernels` times one by one.
"""

import sys
from collections.abc import Callable, Iterator

import torch
from torch import nn

from course.measure.subjects.dsa_kernels import CONTEXT, kernels_work
from course.measure.versus import Call, Way, beside, dtype_of, roof_of, summary, versus
from helpers.compare import assert_close
from helpers.decoding.compiled import whole
from helpers.device import can_compile
from helpers.layers.dsa import SparseLatents
from helpers.layers.ragged import standing_at
from helpers.measure import Measurement, Rate, Work, measure_pair, weights_work
from helpers.measure.dsa_work import SparseSizes, made_flops, masked_decode, sparse_decode
from helpers.models.configs.glm5 import from_hf, published_name
from helpers.models.glm5 import GLM5
from helpers.reference import with_cache
from helpers.use import use

LENGTHS = (8192, 32768, 65536)
REPEATS = 9
NUMBER_BYTES = 4  # float32
SIZES = {  # GLM-5's proportions, made small enough for a laptop
    "vocab_size": 8,
    "hidden_size": 512,
    "num_hidden_layers": 1,
    "first_k_dense_replace": 1,
    "intermediate_size": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": 256,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "index_n_heads": 4,
    "index_head_dim": 64,
    "index_topk": 512,
}
OLDEST_PEER = (5, 23)  # earlier versions cache what no step has to make anew: another layer to compare with
LAYER = {  # GLM-5's attention layer, helpers/facts/configs; the rest of the block is of no account
    "vocab_size": 8,
    "hidden_size": 6144,
    "num_hidden_layers": 1,
    "first_k_dense_replace": 1,
    "intermediate_size": 8,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "q_lora_rank": 2048,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "index_n_heads": 32,
    "index_head_dim": 128,
    "index_topk": 2048,
}


def dsa_decode_case(device: torch.device, lengths: tuple[int, ...] = LENGTHS) -> Iterator[Measurement]:
    """One decoded token of a sparse attention layer, transformers' and ours, written and compiled, same answer."""
    (theirs, ours), s = models(device), SparseSizes.of(SIZES)
    for length in lengths:
        torch.manual_seed(length)
        x, remembered = torch.randn(1, 1, SIZES["hidden_size"], device=device), memory(length, device)
        a, all_weights = their_step(theirs, x, remembered), layer_work(ours, NUMBER_BYTES)
        for way, b in our_steps(ours, x, remembered).items():
            with torch.inference_mode():
                assert_close(b(), a(), 1e-5, f"the answer of {way} after {length} tokens")
            pair = measure_pair(a, b, repeats=REPEATS, device=device)
            print(summary(f"{length} tokens, {way}", "transformers", pair), file=sys.stderr)
            for label, work, timing in (
                (f"{beside(way)} {length}", all_weights + masked_decode(s, length, NUMBER_BYTES), pair.a),
                (f"{way} {length}", all_weights + sparse_decode(s, length, NUMBER_BYTES), pair.b),
            ):
                yield Measurement.of(label, "float32", [length], Rate(work, timing))


def sparse_layer_case(
    device: torch.device, layer: dict[str, int] | None = None, length: int = CONTEXT - 1
) -> Iterator[Measurement]:
    """One new token through GLM-5's attention layer after 128k, batch 1: transformers' layer and ours by kernels."""
    import transformers  # takes seconds: only where it is asked for

    if tuple(map(int, transformers.__version__.split(".")[:2])) < OLDEST_PEER:
        raise ValueError(
            f"transformers {transformers.__version__} keeps keys and values of all heads; 5.23 keeps latents"
        )
    layer, dtype = layer or LAYER, dtype_of(device)
    theirs, ours = models(device, layer, dtype)
    torch.manual_seed(length)
    x, remembered = (
        torch.randn(1, 1, layer["hidden_size"], device=device, dtype=dtype),
        memory(length, device, layer, dtype),
    )
    s = SparseSizes.of(layer)
    work = kernels_work(s, 1, length + 1, dtype.itemsize) + layer_work(ours, dtype.itemsize)
    made = made_flops(s, length + 1)
    moved = 3 * dtype.itemsize * (length + 1) * s.heads * (s.key + s.rope_dim + s.value)  # made, written, read
    slow = Way("transformers", [their_step(theirs, x, remembered)], work + Work(made, moved), graph=False)
    cache = SparseLatents()
    cache.reserve(length + 1)  # one place for every call: a graph writes where it wrote when it was made
    fast = Way("ours", [our_step(use(ours, "triton"), x, remembered, cache)], work)
    # in 16 bits the two round the index scores differently, and may differ in which token comes in last
    yield from versus(
        slow, fast, [1, length, layer["hidden_size"]], device, 0.5 if dtype != torch.float32 else 1e-5, roof_of(device)
    )


def our_steps(model: GLM5, x: torch.Tensor, remembered: list[torch.Tensor]) -> dict[str, Call]:
    """Our layer as it is written and, where a compiler is, as one compiled function."""
    written = {"ours": our_step(model, x, remembered, SparseLatents())}
    if not can_compile():
        return written
    cache = SparseLatents()
    cache.reserve(remembered[0].shape[1] + 1)
    return written | {"compiled": our_step(model, x, remembered, cache, whole(model.blocks[0].attention))}


def models(
    device: torch.device, sizes: dict[str, int] = SIZES, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, GLM5]:
    """transformers' model of one block and ours, with the same weights."""
    from transformers import GlmMoeDsaConfig, GlmMoeDsaForCausalLM  # takes seconds, and no other case needs it

    torch.manual_seed(0)
    theirs = GlmMoeDsaForCausalLM._from_config(GlmMoeDsaConfig(**sizes), attn_implementation="sdpa")
    theirs = theirs.eval().to(device, dtype)
    ours, weights = GLM5(from_hf(theirs.config.to_dict())).eval().to(device, dtype), theirs.state_dict()
    ours.load_state_dict({name: weights[published_name(name)] for name in ours.state_dict()})
    return theirs, ours


def memory(
    length: int, device: torch.device, sizes: dict[str, int] = SIZES, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    """A latent, a RoPE key and an index key for each token of a text."""
    widths = (sizes["kv_lora_rank"], sizes["qk_rope_head_dim"], sizes["index_head_dim"])
    return [torch.randn(1, length, width, device=device, dtype=dtype) for width in widths]


def their_step(model: nn.Module, x: torch.Tensor, remembered: list[torch.Tensor]) -> Call:
    """transformers' layer reads ``x`` after the text. Its cache is put back each time: it is copied when it grows."""
    from transformers import DynamicCache

    length, cache, attention = (
        remembered[0].shape[1],
        DynamicCache(config=model.config),
        model.model.layers[0].self_attn,
    )
    latent, k_rope, index_key = remembered
    cache.update(latent[:, None], halves_apart(k_rope)[:, None], 0)
    cache.update_indexer(halves_apart(index_key, model.config.qk_rope_head_dim), 0)
    entry = cache.layers[0]
    held = entry.keys, entry.values, entry.indexer_keys
    rotary = model.model.rotary_emb(x, torch.tensor([[length]], device=x.device))
    mask = torch.ones(1, 1, 1, length + 1, dtype=torch.bool, device=x.device)

    def step() -> torch.Tensor:
        entry.keys, entry.values, entry.indexer_keys = held
        return attention(x, rotary, mask, **with_cache(attention, cache))[0]

    return step


def our_step(
    model: GLM5,
    x: torch.Tensor,
    remembered: list[torch.Tensor],
    cache: SparseLatents,
    attention: Callable | None = None,
) -> Call:
    """Our layer reads ``x`` after the text, each time to the same slot. ``attention`` None: as it is written."""
    length, attention = remembered[0].shape[1], attention or model.blocks[0].attention
    latent, k_rope, index_key = remembered
    before = standing_at(torch.arange(length, device=x.device)[None])
    cache.latents.write(latent, k_rope, before)
    cache.index_keys.write(index_key, before.positions)
    rows = standing_at(torch.tensor([[length]], device=x.device))
    rotary = model.rotary(rows.positions, x.dtype)
    return lambda: attention(x, rows, rotary, cache)[0]


def halves_apart(x: torch.Tensor, turned: int | None = None) -> torch.Tensor:
    """Neighbouring pairs as transformers keeps them after turning: all first coordinates, then all second ones."""
    first, rest = x[..., :turned], x[..., turned:] if turned else x[..., :0]
    return torch.cat([first[..., 0::2], first[..., 1::2], rest], dim=-1)


def layer_work(model: GLM5, number_bytes: int) -> Work:
    """Every weight of the attention layer, read and used once."""
    count = sum(weight.numel() for weight in model.blocks[0].attention.parameters())
    return weights_work(count, number_bytes * count)
