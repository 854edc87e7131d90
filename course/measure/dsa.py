"""The case `dsa-decode`: one token after a long text, in one attention layer of GLM-5's kind, two ways.

transformers' layer and ours hold the same random weights and the same cache, and give the same answer, which is
checked before any clock runs. transformers makes the keys and values of the whole text anew, and bars those that were
not chosen by a mask. Ours scores the index keys and reads the latents that were chosen. It runs twice: as it is
written, and compiled, where a compiler is; transformers runs as it is by default. Timings are interleaved, so that each
of our calls finds the machine's caches as theirs left them: full of other things.
"""

import sys
from collections.abc import Callable, Iterator

import torch
from torch import nn

from helpers.compare import assert_close
from helpers.decoding.compiled import whole
from helpers.device import can_compile
from helpers.layers.dsa import SparseLatents
from helpers.measure import Comparison, Measurement, Rate, Work, measure_pair
from helpers.models.glm5 import GLM5, from_hf, published_name
from helpers.reference import with_cache

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

Step = Callable[[], torch.Tensor]


def dsa_decode_case(device: torch.device, lengths: tuple[int, ...] = LENGTHS) -> Iterator[Measurement]:
    """One decoded token of a sparse attention layer, transformers' and ours, written and compiled, same answer."""
    theirs, ours = models(device)
    for length in lengths:
        torch.manual_seed(length)
        x, remembered = torch.randn(1, 1, SIZES["hidden_size"], device=device), memory(length, device)
        a, all_weights = their_step(theirs, x, remembered), weights_work(ours)
        for way, b in our_steps(ours, x, remembered).items():
            with torch.inference_mode():
                assert_close(b(), a(), 1e-5, f"the answer of {way} after {length} tokens")
            pair = measure_pair(a, b, repeats=REPEATS, device=device)
            print(said(way, length, pair), file=sys.stderr)
            for label, work, timing in (
                (f"{beside(way)} {length}", all_weights + masked_work(length), pair.a),
                (f"{way} {length}", all_weights + sparse_work(length), pair.b),
            ):
                yield Measurement.of(label, "float32", [length], Rate(work, timing))


def beside(way: str) -> str:
    """The label of transformers' line that was timed together with ``way``."""
    return "transformers" if way == "ours" else f"transformers beside {way}"


def said(way: str, length: int, pair: Comparison) -> str:
    """The result in one line, whichever way it falls."""
    spread = f"{pair.ratio_q1:.1f} to {pair.ratio_q3:.1f}"
    return f"  {length} tokens, {way}: {pair.ratio:.1f} times as fast as transformers ({spread})"


def our_steps(model: GLM5, x: torch.Tensor, remembered: list[torch.Tensor]) -> dict[str, Step]:
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
    """A latent, a turned key and an index key for each token of a text."""
    widths = (sizes["kv_lora_rank"], sizes["qk_rope_head_dim"], sizes["index_head_dim"])
    return [torch.randn(1, length, width, device=device, dtype=dtype) for width in widths]


def their_step(model: nn.Module, x: torch.Tensor, remembered: list[torch.Tensor]) -> Step:
    """transformers' layer reads ``x`` after the text. Its cache is put back each time: it is copied when it grows."""
    from transformers import DynamicCache

    length, cache, attention = (
        remembered[0].shape[1],
        DynamicCache(config=model.config),
        model.model.layers[0].self_attn,
    )
    latent, key_turned, index_key = remembered
    cache.update(latent[:, None], halves_apart(key_turned)[:, None], 0)
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
) -> Step:
    """Our layer reads ``x`` after the text, each time to the same slot. ``attention`` None: as it is written."""
    length, attention = remembered[0].shape[1], attention or model.blocks[0].attention
    latent, key_turned, index_key = remembered
    before = torch.arange(length, device=x.device)[None]
    cache.latents.write(latent, key_turned, before)
    cache.index_keys.write(index_key, before)
    position = torch.tensor([[length]], device=x.device)
    rotary = model.rotary(position, x.dtype)
    return lambda: attention(x, position, rotary, cache)[0]


def halves_apart(x: torch.Tensor, turned: int | None = None) -> torch.Tensor:
    """Neighbouring pairs as transformers keeps them after turning: all first coordinates, then all second ones."""
    first, rest = x[..., :turned], x[..., turned:] if turned else x[..., :0]
    return torch.cat([first[..., 0::2], first[..., 1::2], rest], dim=-1)


def weights_work(model: GLM5) -> Work:
    """Every weight of the attention layer, read and used once."""
    count = sum(weight.numel() for weight in model.blocks[0].attention.parameters())
    return Work(flops=2 * count, bytes=NUMBER_BYTES * count)


def index_work(length: int) -> Work:
    """The index scores: every head reads the one key of every token."""
    heads, width = SIZES["index_n_heads"], SIZES["index_head_dim"]
    return Work(flops=2 * length * heads * (width + 1), bytes=NUMBER_BYTES * length * width)


def sparse_work(length: int) -> Work:
    """Scores of all tokens, attention over the latents of the chosen."""
    chosen, heads = min(SIZES["index_topk"], length), SIZES["num_attention_heads"]
    latent, turned = SIZES["kv_lora_rank"], SIZES["qk_rope_head_dim"]
    read = Work(2 * chosen * heads * (2 * latent + turned), NUMBER_BYTES * chosen * (latent + turned))
    return index_work(length) + read


def masked_work(length: int) -> Work:
    """Scores of all tokens; keys and values of all tokens and heads, made, written and read again."""
    heads, latent, turned = SIZES["num_attention_heads"], SIZES["kv_lora_rank"], SIZES["qk_rope_head_dim"]
    key, value = SIZES["qk_nope_head_dim"], SIZES["v_head_dim"]
    made = Work(2 * length * heads * latent * (key + value), NUMBER_BYTES * length * (latent + turned))
    read = Work(2 * length * heads * (key + turned + value), 2 * NUMBER_BYTES * length * heads * (key + turned + value))
    return index_work(length) + made + read
