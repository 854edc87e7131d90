# %% [markdown]
# # Quantise a mixture of experts for real
#
# **After loading in four bits, how many bytes really have four bits?**
#
# 60 minutes, without the stretch exercise · needs: lessons [[experts]] and [[formats]] ·
# runs on any laptop, without a network
#
# You will load a small mixture of experts "in four bits", count what became of it byte by byte, and build a quantiser
# that finds the experts. Then you look for what must not be rounded: parts, the router, the cache. Last comes the
# plan: which real model fits on which machine. Here is the whole idea.
#
# ```text
#     what a model stores        load_in_4bit         what you build
#     attention   ####           4 bits               16 bits: it suffers most
#     experts     ############   16 bits: not seen    4 bits: they hardly notice
#     router      .              16 bits              16 bits: it costs nothing
#     embedding   ###            16 bits              16 bits, or 8
#     cache       grows          16 bits              8 or 4, part by part
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo:tiny-deepseek-v3"  # or a Hugging Face id, or a folder, of a model with experts
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import quantise_moe as check
from helpers.checkpoints import load, resolve
from helpers.plots import show
from helpers.plots import stored as draw
from helpers.units import GB, format_bytes

device = begin(scale, checkpoint, device, seed)
torch.set_num_threads(1)  # a second thread would wait for whoever else uses this machine
folder, smoke = resolve(checkpoint, download=True), scale == "smoke"

# %% [markdown]
# ## By hand
#
# Eight weights in four bits. The largest, 1.4, becomes 7, so a step is 0.2; each weight becomes a whole number of
# steps from -7 to 7. Add 8, and a code has no sign; put two codes into a byte.

# %%
row = torch.tensor([0.7, -0.2, 0.05, -0.9, 0.4, 0.0, 1.4, -0.3])
step = row.abs().max() / 7
codes = (row / step).round().int()
shifted = codes + 8
packed = shifted[0::2] | shifted[1::2] << 4
print("codes:", codes.tolist(), "| bytes:", [f"{byte:02x}" for byte in packed.tolist()])
print("back: ", [round(w, 2) for w in (codes * step).tolist()])
for group in (8, 32, 128):
    print(
        f"groups of {group:3}: {group // 2} bytes and a scale of 2, {8 * (group / 2 + 2) / group:.3f} bits per weight"
    )

# %% [markdown]
# "Four bits" never takes four bits: the scale counts. That is the first thing to ask of any quantised model: *bits a
# weight, scales included*. The second is the question of this lesson: bits of **which** weights?

# %% [markdown]
# ## Predict
#
# The model ahead has DeepSeek-V3's architecture: 12 experts of which a token uses two, attention, a dense first layer,
# an embedding. **Of 100 weights, how many have four bits after `load_in_4bit=True`?** Then you round the experts
# alone, to three bits. **Of 100 facts that the model knew, how many does it still say?** And the giant: **how many GPUs
# of 80 GB does GLM-5 need in four bits**, with a tenth of their memory free and one text of 128,000 tokens?

# %% tags=["predict:all"]
in_four_bits = ...
facts_left = ...
gpus_for_glm5 = ...
# BEGIN SOLUTION
in_four_bits = 90
facts_left = 60
gpus_for_glm5 = 5
# END SOLUTION
check.predict("quantise_moe.share", in_four_bits, unit="of 100 weights")
check.predict("quantise_moe.facts", facts_left, unit="of 100 facts")
check.predict("quantise_moe.gpus", gpus_for_glm5, unit="GPUs")

# %% [markdown]
# ## Build
#
# ### 1. Load in four bits
#
# The helper is one call, `from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True))`, on the
# CPU and with its messages kept quiet. Nothing warns. Look at one layer.

# %%
from helpers.quant.audit import load_in_4bit

loaded = load_in_4bit(folder)
for name, weight in loaded.named_parameters():
    if ".layers.1." in name and "norm" not in name:
        kind = f"{type(weight).__name__}, {str(weight.dtype).removeprefix('torch.')}"
        print(f"{name.removeprefix('model.layers.1.'):36} {kind:24} {tuple(weight.shape)}")

# %% [markdown]
# A `Params4bit` is a column of bytes, two weights in each. Attention has it, and so has the shared expert. But what
# about the two tensors called `experts`? They are bfloat16, as if nothing had been asked.
#
# ### 2. Why the experts stayed
#
# bitsandbytes replaces every `nn.Linear` that it finds. Ask the model which of its weights are inside one.

# %%
from torch import nn

linear = {name for name, module in loaded.named_modules() if isinstance(module, nn.Linear)}
matrices = {name: weight for name, weight in loaded.named_parameters() if len(weight.shape) > 1}
outside = [name for name in matrices if name.rpartition(".")[0] not in linear]
for name in outside:
    print(f"{name:44} {tuple(matrices[name].shape)!s:14} {matrices[name].numel():8,} weights")

# %% [markdown]
# Since its fifth version transformers keeps all experts of a layer as **one tensor with three axes**, because one
# operation then multiplies all of them (`grouped_mm`, lesson [[experts]]). No `nn.Linear` holds it, so the search walks
# past, and says nothing. It is a known problem (bitsandbytes issue 1849, open since January 2026; pull request 1965,
# open since June). Another quantiser left 91 % of a Gemma 4 untouched in the same way (NVIDIA Model-Optimizer issue
# 1173, April 2026).
#
# ### 3. The audit
#
# Never believe an option; count. For each weight: its part, its format, how many numbers it stands for, and all bytes
# that it takes, scales and tables included.

# %%
from helpers.quant.audit import audit, bytes_of, share_in, summed

held = audit(loaded)
print(f"{'part':20}{'format':10}{'weights':>10}{'bytes':>10}{'bits per weight':>15}")
for row in summed(held):
    print(f"{row.part:20}{row.format:10}{row.weights:10,}{row.bytes:10,}{row.bits:15.2f}")
plain = 2 * sum(row.weights for row in held)
share = 100 * share_in(held, "nf4")
print(f"in 16 bits {format_bytes(plain)}; loaded in four {format_bytes(bytes_of(held))}")
check.reveal("quantise_moe.share", machine=share, unit="of 100 weights")

# %% [markdown]
# The library did what it promises, layer by layer. It did not do what the word "load" makes you expect. And this model
# is kind: real mixtures keep far more of their weights in experts. You will count those below.
#
# ### 4. A quantiser that sees a stack
#
# It is your row from above with two more axes. Each group of each row of **each expert** has a scale of its own, in
# bfloat16. Groups of 16 divide the narrow matrices of small models; Kimi K2.5 takes 32.


# %%
import math


def pack(stack: torch.Tensor, group: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """[E, O, I] -> bytes [E, O, I / 2] with two codes each, and scales [E, O, I / group]."""
    group = math.gcd(group, stack.shape[-1])  # of a narrow matrix: what divides its rows
    groups = stack.float().unflatten(-1, (-1, group))
    scale = (groups.abs().amax(dim=-1) / 7).clamp_min(1e-20).to(torch.bfloat16)
    codes = (groups / scale.float()[..., None]).round().clamp(-7, 7).flatten(-2)
    codes = (codes + 8).to(torch.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, scale


def unpack(packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """[E, O, I] again, as near as four bits came to it."""
    codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).float() - 8
    return (codes.unflatten(-1, (scale.shape[-1], -1)) * scale.float()[..., None]).flatten(-2)


# %%
from helpers.moe.experts import mixtures

model = load(folder, torch.bfloat16)
if not list(mixtures(model)):
    raise ValueError(f"{checkpoint} has no experts; zoo:tiny-deepseek-v3 and zoo:tiny-qwen3_5-moe have some")
name, experts = next(mixtures(model))
packed, scale_of = pack(experts.gate)
error = (unpack(packed, scale_of) - experts.gate.float()).norm() / experts.gate.float().norm()
size = packed.nbytes + scale_of.nbytes
print(f"{name}.experts.gate {tuple(experts.gate.shape)}: {format_bytes(experts.gate.nbytes)} -> {format_bytes(size)}")
print(f"{8 * size / experts.gate.numel():.1f} bits per weight, relative error {error:.1%}")

# %% [markdown]
# ### 5. A whole model, packed
#
# Your `unpack` gives numbers back, and a model that holds numbers again is as large as before. `quantise` from the
# helpers puts **layers** in their place that keep the bytes and compute with them, experts and routers included, in
# every family of this course. `keep` says what stays. It prints what it did, before and after.

# %%
from helpers.quant.model import quantise
from helpers.quant.parts import all_but


def fresh(dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model anew, without the block that guesses ahead: transformers does not build that either."""
    model = load(folder, dtype, device)
    if hasattr(model, "drafters"):
        model.drafters.clear()
    return model


ours = fresh(torch.bfloat16)
print(quantise(ours, "int4", keep=all_but("routed experts"), wrap=True))


# %%
def parts_of(model: nn.Module) -> list[draw.Bytes]:
    return [draw.Bytes(row.part, row.bits, row.bytes) for row in summed(audit(model))]


ways = {"16 bits": parts_of(fresh(torch.bfloat16)), "load_in_4bit": parts_of(loaded), "experts only": parts_of(ours)}
sizes = {way: sum(row.bytes for row in rows) for way, rows in ways.items()}
finding = f"load_in_4bit leaves {sizes['load_in_4bit'] / sizes['16 bits']:.0%} of the bytes"
show(draw.bytes_by_part(ways, f"{finding}, packing the experts alone {sizes['experts only'] / sizes['16 bits']:.0%}"))

# %% [markdown]
# ### 6. Who bears few bits?
#
# Fewer bytes are half of the question. The model learned names of countries, months and days by heart; ask it for a
# few hundred. (Another checkpoint is asked whether it still puts the same token first as before.)

# %%
from transformers import AutoTokenizer

from helpers.compare import top1_agreement
from helpers.data.parallel import calendar_texts
from helpers.training.recall import share_recalled
from helpers.zoo import fact_data, read_card

tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer
knows_facts = (folder / "card.json").exists() and "recalled" in read_card(folder)
facts = fact_data.facts()[:: 150 if smoke else 30]
text = torch.tensor([tokenizer.encode("\n".join(calendar_texts(["en", "de", "fr"]).values())).ids[:512]])


@torch.no_grad()
def score(model: nn.Module) -> float:
    """Facts recalled, or tokens on which it agrees with the original: a share from 0 to 1."""
    if knows_facts:
        return share_recalled(model, tokenizer, facts)
    ids = text.to(device)
    return top1_agreement(model(ids), fresh()(ids))


# %% [markdown]
# Now round one part at a time, on a float32 copy, with your grid for any number of bits (`rounded`; two bits have three
# values).

# %%
from helpers.models.components import PARTS, part_of
from helpers.quant.methods.qat import rounded
from helpers.quant.parts import layers_of, weights_of


@torch.no_grad()
def round_parts(model: nn.Module, parts: list[str], bits: int, group: int = 16) -> nn.Module:
    """``model``, in place, with these parts rounded."""
    for name, layer in layers_of(model):
        if part_of(name) in parts:
            for weight in weights_of(layer):
                weight.copy_(rounded(weight, bits, math.gcd(group, weight.shape[-1])))
    return model


# %% [markdown]
# Four choices of parts, four widths, each asked the same facts.

# %%
choices = {
    "experts": ["routed experts"],
    "router": ["router"],
    "all but experts": all_but("routed experts"),
    "everything": [*PARTS],
}
widths = (4,) if smoke else (8, 4, 3, 2)
before = score(fresh())
lines = {name: {bits: score(round_parts(fresh(), parts, bits)) for bits in widths} for name, parts in choices.items()}

# %%
for name, line in lines.items():
    print(f"{name:16}", "  ".join(f"{bits} bits {line[bits]:6.1%}" for bits in widths))
at = 3 if 3 in widths else 4
own, rest = (lines[name][at] for name in ("experts", "all but experts"))
finding = f"At {at} bits: {own:.0%} with rounded experts, {rest:.0%} with everything else rounded"
show(draw.score_lines(lines, finding, "bits per code", "right answers (%)", before))
check.reveal("quantise_moe.facts", machine=100 * own / before, unit="of 100 facts")

# %% [markdown]
# Read the first and the third line again. The experts are more than half of the weights and bear four bits nearly for
# free; what is *not* experts is the smaller half and falls much earlier. One reason is at hand: embedding, attention
# and the first layer serve every token, an expert serves few. `load_in_4bit` rounds what suffers and leaves what does
# not.
#
# ### 7. The router
#
# The router is a thin matrix. Rounding changes its scores a little, and a choice can tip. Count the tokens that get
# another **set** of experts.

# %%
from helpers.moe.specialization import watch_choices


@torch.no_grad()
def chosen(model: nn.Module) -> torch.Tensor:
    """The experts of each token in each mixture, in order of their numbers: [mixtures x tokens, experts per token]."""
    with watch_choices(model) as seen:
        model(text.to(device))
    return torch.cat([part.flatten(0, -2).sort(dim=-1).values for parts in seen.values() for part in parts])


original, all_bytes = chosen(fresh()), bytes_of(audit(fresh()))
router_bytes = bytes_of([row for row in audit(fresh()) if row.part == "router"])
print(f"the router is {router_bytes / all_bytes:.2%} of the bytes")
for bits in widths:
    after = [chosen(round_parts(fresh(), [part], bits)) for part in ("router", "routed experts")]
    tipped = [(now != original).any(dim=1).float().mean() for now in after]
    print(f"{bits} bits: {tipped[0]:6.1%} of choices change with the router rounded, {tipped[1]:6.1%} with the experts")

# %% [markdown]
# A fifth of the choices tips at four bits, and the score hardly moves: an expert that nearly won is nearly as good.
# But nothing is gained either: it is a third of a percent of the bytes. So keep it; Kimi K2.5 packs its routed experts
# and nothing else.
#
# ### 8. The cache
#
# Weights are read, the cache **grows**. Two axes to round along: the numbers of one *token*, or one *channel* over a
# block of tokens. Take the keys and values of `tiny-qwen3`, a model with ordinary attention, and compare.


# %%
def along(x: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """[tokens, channels] on a grid from the least to the largest number along ``dim``."""
    least, most = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    step = (most - least) / (2**bits - 1)
    return ((x - least) / step).round() * step + least


def lost(numbers: torch.Tensor, bits: int, dim: int, block: int = 32) -> float:
    """Relative error of [tokens, channels], each block of tokens rounded by itself."""
    back = torch.cat([along(part, bits, dim) for part in numbers.split(block)])
    return ((back - numbers).norm() / numbers.norm()).item()


# %%
from helpers.data import python_corpus

reader, words = load("zoo:tiny-qwen3"), AutoTokenizer.from_pretrained(resolve("zoo:tiny-qwen3"))
code = max(python_corpus().held_out.values(), key=len)
cache = reader.new_cache()
with torch.no_grad():
    reader(torch.tensor([words(code[:1400]).input_ids]), cache)

print("lost at 3 bits      keys, by token  by channel    values, by token  by channel")
for n, entry in enumerate(cache.blocks):
    keys, values = (slots.held[0].flatten(1) for slots in (entry.keys, entry.values))
    row = [lost(numbers, 3, dim) for numbers in (keys, values) for dim in (1, 0)]
    print(f"layer {n}              {row[0]:14.1%}{row[1]:12.1%}{row[2]:20.1%}{row[3]:12.1%}")

# %% [markdown]
# Keys lose much less along their channels in every layer: some channels are large for every token, and along a token
# they would set the step of all the others. Values care little. That is KIVI's rule (Liu et al., 2024): keys along
# channels, values along tokens.
#
# It has a price. A channel's step is known when its block of tokens is complete, so the newest tokens must wait in full
# precision. Forget that, round each token alone along its channels, and you have one number a step: it rounds to
# itself, and nothing is saved (exercise 5).
#
# ### 9. Does it still find the needle?
#
# A cache is for finding things. `tiny-glm5` finds pairs of words in 450 words of noise (lesson [[dsa]]). Each token
# leaves three vectors in a layer: a latent of 48 numbers, a RoPE key of 16, an index key of 32. Pack all three, token
# by token, with the bytes counted as they lie; ask for pairs at the start, in the middle and at the end.

# %%
from helpers.data import tasks
from helpers.quant.cache import Rule, packed_cache
from helpers.training.recall import share_found
from helpers.zoo.evidence.tasks import examples

finder = load("zoo:tiny-glm5")
word_tokenizer = AutoTokenizer.from_pretrained(resolve("zoo:tiny-glm5")).backend_tokenizer
kinds, noise = ("latent", "k_rope", "index_keys"), 100 if smoke else 448


def found(rules: dict[str, Rule], depth: float | None = None, count: int = 4 if smoke else 16) -> tuple[float, int]:
    """The share of pairs found, and the bytes of the cache that held the texts."""
    asked = examples(lambda rng: tasks.needle(rng, noise, depth=depth), count)
    return share_found(finder, word_tokenizer, asked, packed_cache(finder.new_cache(), rules))


# %% [markdown]
# Three depths, four widths; and the bytes of the cache once it holds sixteen texts.

# %%
depths = (0.0, 1.0) if smoke else (0.0, 0.5, 1.0)
by_depth, cache_sizes = {}, {}
for bits in (4, 2) if smoke else (8, 4, 3, 2):
    rules = {kind: Rule(bits, group=16) for kind in kinds}
    line = {depth: found(rules, depth) for depth in depths}
    by_depth[f"{bits} bits"] = {depth: share_right for depth, (share_right, _) in line.items()}
    cache_sizes[bits] = line[depths[0]][1]
whole, plain_bytes = found({})  # float32, twice what bfloat16 takes
for bits, size in cache_sizes.items():
    print(f"{bits} bits: {format_bytes(size)}, {32 * size / plain_bytes:.2f} bits per number with scales and zeros")

# %%
worst = {bits: min(by_depth[f"{bits} bits"].values()) for bits in (4, 2)}
finding = f"At its worst depth {worst[4]:.0%} is found in four bits, {worst[2]:.0%} in two"
show(draw.score_lines(by_depth, finding, "depth (0 start, 1 end)", "pairs found (%)", whole))

# %% [markdown]
# Down to four bits next to nothing is lost at any depth. At two bits much is, and the start and the middle of the text
# go first: whoever tests a coarse cache on short texts, or with the needle at the end, sees too little. Which of the
# three vectors is to blame? Round one at a time, to two bits.


# %%
for kind, width in {"latent": 48, "k_rope": 16, "index_keys": 32}.items():
    share_left, size = found({kind: Rule(2, group=16)})
    print(f"{kind:11} at 2 bits ({width} of 96 numbers): {share_left:.0%} found")

# %% [markdown]
# The RoPE key, a sixth of the numbers, carries nearly all of the loss: it says *where*, and this model finds a pair
# by looking one token back. So store that part well and the rest coarsely. It is what serving code does with
# DeepSeek-V3.2, as the facts table of lesson [[what_came_next]] has it: 512 numbers of the latent in FP8, the 64 turned
# ones in bf16.

# %%
mixed = {"latent": Rule(2, group=16), "index_keys": Rule(2, group=16), "k_rope": Rule(8, group=16)}
for name, rules in {"all at 2 bits": {kind: Rule(2, group=16) for kind in kinds}, "RoPE key at 8": mixed}.items():
    share_left, size = found(rules)
    print(f"{name:16} {share_left:6.1%} found in {format_bytes(size)}; bf16 takes {format_bytes(plain_bytes / 2)}")

# %% [markdown]
# ### 10. A little training
#
# Two bits destroy the experts' knowledge. But a model can be *told* that it will be rounded. In the forward pass each
# expert weight is read as rounded; the gradient passes as if it were not (a straight-through estimator), and moves the
# weight underneath. In torch that is one line, and the trick is in `detach`.


# %%
def straight_through(weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    return weight + (rounded(weight, bits, group) - weight).detach()


weight = torch.tensor([[0.2, -1.0, 0.5, 0.9]], requires_grad=True)
read = straight_through(weight, 2, 4)
(read * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
print("read:", read.detach().tolist(), "| gradient:", weight.grad.tolist())

# %% [markdown]
# Forty steps on the same facts, with two-bit experts and everything else frozen.

# %%
from helpers.quant.methods.qat import Width, rounding
from helpers.training.losses import answers
from helpers.training.train import Settings, train

steps = 2 if smoke else 40
settings = Settings(steps, lr=3e-3, warm_up=4, weight_decay=0.0)


def train_on_facts(model: nn.Module) -> float:
    """Train whatever may learn; the score afterwards."""
    train(model, fact_data.stream(tokenizer), settings, loss=answers)
    return score(model)


# %%
if knows_facts:
    told = fresh()
    names = [name for name, _ in told.named_parameters() if part_of(name) == "routed experts"]
    with rounding(told, names, Width(2, 16)):
        at_once, after_steps = score(told), train_on_facts(told)
    print(f"experts at 2 bits: {at_once:.1%}; after {steps} steps that knew it {after_steps:.1%}")

# %% [markdown]
# To be fair, the same steps once more without rounding, and rounded afterwards: if mere training helped, it would help
# there too.

# %%
if knows_facts:
    untold = fresh()
    for name, weight in untold.named_parameters():
        weight.requires_grad_(name in names)
    print(f"{steps} steps that did not know: {train_on_facts(untold):.1%}", end=", ")
    print(f"rounded afterwards {score(round_parts(untold, ['experts'], 2)):.1%}")

# %% [markdown]
# The steps that knew of the rounding bring a good part back; from the others rounding takes everything again. Kimi
# K2.5's experts were trained so, at four bits (the details are not published), where there is little left to win: your
# own line above says how little.
#
# ## Check
#
# ### The packed model computes with the numbers that it stores
#
# Put decoded numbers into a plain model, and pack another; both must say the same. Lengths 1, 31 and 33, since one
# token takes another path than many.

# %%
from helpers.compare import max_error
from helpers.quant.backends import encoded_as

plain_model, packed_model = fresh(), fresh()
quantise(packed_model, "int4", keep=all_but("routed experts"), wrap=True)
with torch.no_grad():
    for _, experts in mixtures(plain_model):
        for stack in experts.parameters():
            back = [encoded_as(matrix, "int4", wrap=True).decode().view_as(matrix) for matrix in stack]
            stack.copy_(torch.stack(back))

# %%
with torch.no_grad():
    for length in (1, 31, 33):
        ids = text[:, :length].to(device)
        difference, rounding_error = (max_error(packed_model(ids), other(ids)) for other in (plain_model, fresh()))
        print(f"{length:2} tokens: packed and decoded differ by {difference:.1e}, from 16 bits by {rounding_error:.2f}")
        assert difference < 1e-4

# %% [markdown]
# ### bitsandbytes' numbers and ours
#
# Where it did find a layer, are its codes and scales those of NF4 in lesson [[formats]]? Blocks of 64 run on over the
# ends of rows. And what do the codes become when they are read again?

# %%
import bitsandbytes.functional as bnb

from helpers.quant.audit import load_in_16bit
from helpers.quant.formats.named import encode

name = next(row.name for row in held if row.format == "nf4" and row.part in ("attention", "delta"))
theirs, original_weight = loaded.get_parameter(name), load_in_16bit(folder).get_parameter(name).detach().float()
mine = encode(original_weight.reshape(-1, 64), "nf4")
codes, scales = mine.tensors().values()
print(f"{name} {tuple(original_weight.shape)}")
print("codes equal:", torch.equal(theirs.data.flatten(), codes.flatten()), end=", ")
print("scales equal:", torch.equal(theirs.quant_state.absmax, scales.flatten()))

# %%
decoded = {"this course": mine.decode().view_as(original_weight)}
decoded["bitsandbytes"] = bnb.dequantize_4bit(theirs.data, theirs.quant_state).float()
for who, back in decoded.items():
    print(f"decoded by {who:13} {(back - original_weight).norm() / original_weight.norm():.1%} from the original")

# %% [markdown]
# Codes and scales agree to the bit. The decoded numbers do not: version 0.50.2 of bitsandbytes takes wrong scales on a
# CPU where a row is not whole blocks of 64 (here 96 columns; found for this lesson on 25 November 2026), and nothing
# warns. By their configs the text models of this course have whole blocks; the vision towers of Kimi K2.5 and of two
# Qwen3.5 have rows of 4,304. Count, compare, and believe no label.
#
# ### A bug that looks like success
#
# Shapes fit, bytes are right, nothing fails: give each expert the scales of its neighbour. It is what happens when
# experts are stacked in one order and scales in another.

# %%
mistaken = fresh()
with torch.no_grad():
    for _, experts in mixtures(mistaken):
        for stack in experts.parameters():
            codes, scale_of = pack(stack)
            stack.copy_(unpack(codes, scale_of.roll(1, dims=0)))
ids = text[:, :33].to(device)
with torch.no_grad():
    error = max_error(mistaken(ids), plain_model(ids))
print(f"largest difference {error:.1f}, score {score(mistaken):.1%}; with the right scales {score(plain_model):.1%}")

# %% [markdown]
# The difference is plain, and the score falls; it does not fall to nothing, because neighbours' scales are alike. A
# glance at some answers would pass it. The comparison of numbers does not.
#
# ## Measure
#
# ### Bytes, bits and score, end to end
#
# Formula: 16 bits become 4 plus the scale's share, for the weights that are packed. The machine: load in bfloat16, pack
# in place, count every byte, ask the facts again.

# %%
experts4 = ("int4", all_but("routed experts"))
recipes = {
    "16 bits": [],
    "int8, all": [("int8", ())],
    "nf4, as load_in_4bit": [("nf4", ("routed experts", "router", "embedding", "head"))],
    "int4, experts": [experts4],
    "mxfp4, experts": [("mxfp4", all_but("routed experts"))],
    "int4 experts, int8 rest": [experts4, ("int8", ())],
    "int4, but the ends": [("int4", ("router", "embedding", "head"))],
    "int4, all": [("int4", ())],
}

# %%
points = {}
for name, calls in list(recipes.items())[: 3 if smoke else None]:
    model = fresh(torch.bfloat16)
    for form, keep in calls:  # what is packed already stays as it is
        quantise(model, form, keep=keep, wrap=True)
    size, numbers = bytes_of(audit(model)), sum(row.weights for row in audit(model))
    points[name] = (8 * size / numbers, 100 * score(model))
    print(f"{name:24} {format_bytes(size):>8} {points[name][0]:6.2f} bits per weight {points[name][1]:6.1f} %")

# %% [markdown]
# Which of them does no other beat, in bytes and in answers at once?

# %%
from helpers.plots.quant.quantised import frontier, size_and_score

beaten = [name for name in points if name not in frontier(points, lower_is_better=False)]
finding = f"{len(points) - len(beaten)} of {len(points)} recipes are beaten by no other"
show(size_and_score(points, finding, "bits per weight, scales included", "right answers (%)", lower_is_better=False))

# %% [markdown]
# Three things deserve a second look. What `load_in_4bit` finds costs more of the score than packing the experts, and
# saves fewer bytes. Eight bits for *everything* beat four bits for the experts alone: this model is small, and half of
# it is no expert. And the two together, each part in its own format, are the best buy: about six bits per weight, where
# four bits for nearly everything take as many and lose far more.
#
# Beside your numbers, recorded ones of two other models, every format, all packed but router and ends: bits per byte of
# Python that `tiny-qwen3` never read, right answers of `tiny-glm5`, and how many times as fast as plain bfloat16 tokens
# are written.

# %%
from helpers.measure import recorded

all_formats = {}
for place, record in recorded("quantised-model").items():
    print(f"{place}, {record.machine['name']}, recorded {record.date}")
    scores = {tuple(line.label.split(", ")): line.scores for line in record.measurements}
    for form, known in ((form, known) for (form, model), known in scores.items() if model == "tiny-qwen3"):
        all_formats[form] = known["bits per number"], known["bits per byte"]
        right = scores[form, "tiny-glm5"]["right answers"]
        said = (
            f"{all_formats[form][0]:6.2f} bits per number, {all_formats[form][1]:.3f} bits per byte, {right:6.1%} right"
        )
        print(f"  {form:14}{said}, {known['times plain']:.2f} times plain")

# %%
if all_formats:
    finding = f"{len(frontier(all_formats))} of {len(all_formats)} formats are beaten by no other (tiny-qwen3)"
    show(size_and_score(all_formats, finding, "bits per number held", "bits per byte of held-out Python"))

# %% [markdown]
# The right answers say nothing, and bits per byte move in their third digit: what a model does with room to spare it
# still does when it is rounded. Facts known by heart have no such room. So ask for something that is hard for the model
# that you have. And at this size most formats are slower than none: unpacking costs time, and there are few bytes to
# save.
#
# ### Recorded on a GPU
#
# Experts in four bits beside the same in 16, by one kernel for all experts of a layer (lesson [[kernels]]):
# `python3 -m course measure experts-four-bits --device cuda`.

# %%
from helpers.measure import recorded_text

print(recorded_text("experts-four-bits"))

# %% [markdown]
# ### The giants: what would be found?
#
# Count with `plan` which share of each real model an `nn.Linear` holds. (For these, nobody loads anything here: it is
# the published config, and the formula of NF4 without double quantisation, 4.5 bits.)

# %%
from helpers.facts import table
from helpers.planning.plan import plan, published

rows = {row["model"]: row["config"] for row in table("models") if "config" in row}
rows = {model: rows[model] for model in ("Qwen3.5-35B-A3B", "GLM-5", "Kimi-K2.5")} if smoke else rows
plans = {model: plan(published(config)) for model, config in rows.items()}


# %%
def in_nf4(p, parts: list[str]) -> float:
    """GB with these parts at 4.5 bits per weight and the others at 16."""
    return (p.weight_bytes("bf16") - sum(p.parts.get(part, 0) for part in parts) * (16 - 4.5) / 8) / GB


SEEN = ["attention", "indexer", "delta", "shared expert", "dense FFN", "vision"]
print("                     experts        16 bits   load_in_4bit  experts too")
for name, p in plans.items():
    if routed := p.parts.get("routed experts"):
        sizes_of = p.weight_bytes("bf16") / GB, in_nf4(p, SEEN), in_nf4(p, [*SEEN, "routed experts"])
        print(f"{name:20} {routed / p.total:7.1%}", "".join(f"{size:11,.0f} GB" for size in sizes_of))

# %% [markdown]
# For the giants "in four bits" would leave nearly everything in sixteen. (Kimi's and DeepSeek's checkpoints are
# published packed; this is what becomes of bf16 ones.)
#
# ### Which model fits where?
#
# Weights, a cache of 32,000 tokens, and a tenth of the memory to work in. GB are 1e9 bytes; a chip's memory is the
# smallest form in the facts table. The two cards stand for a workstation and an office server.

# %%
from helpers.planning.fit import fit, machine, machines

FORMS = {16: "bf16", 8: "fp8 128x128", 4: "int4 g32"}
KINDS = {"24 GB card": (1, 2), "96 GB card": (1, 4), "H100": (8,), "H200": (8, 16)}
places = {name: on for chip, counts in KINDS.items() for name, on in machines(chip, counts=counts).items()}


def widest(p, on) -> int:
    return max((bits for bits, form in FORMS.items() if fit(p, on, form, tokens=32_000).fits), default=0)


grid = {model: {name: widest(p, on) for name, on in places.items()} for model, p in plans.items()}
office = [model for model, p in plans.items() if widest(p, places["4 x 96 GB card"])]
finding = f"An office server of four 96 GB cards holds {len(office)} of {len(plans)} models"
show(draw.widest_that_fits(grid, finding, "a cache of 32,000 tokens, a tenth free"))

# %%
glm5, kimi = plans["GLM-5"], plans["Kimi-K2.5"]
for form in FORMS.values():
    need = next(n for n in range(1, 99) if fit(glm5, machine("H100", n), form, tokens=128_000).fits)
    print(f"GLM-5 at {form:12} {glm5.weight_bytes(form) / GB:6,.0f} GB of weights: {need} x H100 of 80 GB")
check.reveal("quantise_moe.gpus", formula=need, unit="GPUs")
for chip in ("H100", "H200"):
    need = next(n for n in range(1, 99) if fit(kimi, machine(chip, n), "bf16", "int4 g32", tokens=128_000).fits)
    print(f"Kimi K2.5 as published: {kimi.weight_bytes('bf16', 'int4 g32') / GB:.0f} GB of weights, {need} x {chip}")

# %% [markdown]
# One more caution: chips come in eights, matrices are cut evenly, and a latent that all heads share is kept on every
# chip unless the requests are spread instead. The count of bytes is the least that is needed, not a recipe.
#
# ### Two lines of the ledger

# %%
from helpers.claims.ledger import claim

yours = {
    "fewer-bits": f"{sizes['experts only'] / sizes['16 bits']:.0%} of the bytes, {score(ours):.1%} for {before:.1%}"
}
yours["small-clusters"] = f"four 96 GB cards hold {', '.join(office)}"
for id, measured in yours.items():
    entry = claim(id)
    print(f"{entry.says}\n    you measured: {measured}\n    the ledger says: {entry.verdict}")
    print("       ", entry.verdicts[-1].because.replace("; ", ";\n        "))

# %% [markdown]
# ## Play
#
# Three things to try:
#
# - GLM-5 in four bits on eight H100. Raise the number of texts until they do not fit. Then halve the cache's bits.
# - Qwen3.5-35B-A3B on one 24 GB card: in which format does it fit, and with how much context?
# - Kimi K2.5 as it is published (experts in four bits, the rest in sixteen): how many H200 does it take?

# %%
from helpers.plots import checkpoint as bars
from helpers.plots.widgets import Choice, Slider, explore

FORMATS = {"16 bits": ("bf16", None), "8 bits (FP8)": ("fp8 128x128", None), "4 bits (INT4)": ("int4 g32", None)}
FORMATS["experts in 4 bits, rest in 16"] = ("bf16", "int4 g32")
CHIPS = {
    name: on for chip in ("24 GB card", "96 GB card", "H100", "H200", "B200") for name, on in machines(chip).items()
}


def plan_picture(model: str, format: str, on: str, context: int, texts: int, cache_bits: int):
    form, routed = FORMATS[format]
    need = fit(plans[model], CHIPS[on], form, routed, 1000 * context, texts, cache_bits)
    said = f"{format}, {texts} x {context} k tokens at {cache_bits} bits, {on}"
    memory, caches = need.machine.memory_bytes, texts * need.cache_bytes
    return bars.memory_plan(model, need.weights_bytes, caches, memory, said, f"{texts} caches", need.room_bytes)


explore(
    plan_picture,
    model=Choice([*plans], "model", "GLM-5"),
    format=Choice([*FORMATS], "weights", "4 bits (INT4)"),
    on=Choice([*CHIPS], "machine", "8 x H100"),
    context=Slider(8, 256, 128, "context (1,000 tokens)", log=True),
    texts=Slider(1, 64, 4, "texts at once", log=True),
    cache_bits=Choice([16, 8, 4], "bits of the cache", 16),
)

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: an audit (5 minutes, difficulty 1)
#
# `rows` is a list of `(weights, bytes, bits)`: how many numbers a row stands for, the bytes that it takes, its bits a
# weight. Return two numbers: the share of **weights** that have under 8 bits, and the bits of a weight in the mean.


# %% tags=["exercise:audit", "points:1"]
def shares(rows):
    # BEGIN SOLUTION
    weights = sum(count for count, _, _ in rows)
    few = sum(count for count, _, bits in rows if bits < 8)
    return few / weights, 8 * sum(size for _, size, _ in rows) / weights
    # END SOLUTION


# %% tags=["check:audit"]
check.audit(shares)

# %% [markdown]
# ### 2. Core: keep the router? (6 minutes, difficulty 2)
#
# Given a router's logits `before` and `after` rounding, [tokens, experts], and `k` experts per token: return the share
# of tokens that get another **set** of experts.


# %% tags=["exercise:changed", "points:2"]
def share_changed(before, after, k):
    # BEGIN SOLUTION
    was, now = (logits.topk(k, dim=-1).indices.sort(dim=-1).values for logits in (before, after))
    return (was != now).any(dim=-1).float().mean()
    # END SOLUTION


# %% tags=["check:changed"]
check.changed(share_changed)

# %% [markdown]
# ### 3. Core: INT4 experts only (12 minutes, difficulty 2)
#
# Given a `stack` [E, O, I] and a `group` that divides I, return `(packed, scale)`: bytes [E, O, I / group x group / 2]
# with the code of an even column in the lower half and of the next in the upper, and bfloat16 scales [E, O, I / group].
# A code is round(weight / scale) + 8, with the scale **as it is stored**.


# %% tags=["exercise:experts", "points:2"]
def int4_experts(stack, group):
    # BEGIN SOLUTION
    groups = stack.unflatten(-1, (-1, group))
    scale = (groups.abs().amax(dim=-1) / 7).to(torch.bfloat16)
    codes = ((groups / scale.float()[..., None]).round().clamp(-7, 7) + 8).flatten(-2).to(torch.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, scale
    # END SOLUTION


# %% tags=["check:experts"]
check.experts(int4_experts)

# %% [markdown]
# ### 4. Core: GLM-5 on four or eight GPUs (8 minutes, difficulty 2)
#
# Weights take `weights_bytes`, cut over all GPUs; a text of `tokens` tokens takes `token_bytes` for each. There are
# `gpus` GPUs of `gb_each` GB (1e9 bytes), of which the share `room` stays free. Return how many texts fit, a whole
# number, 0 where none does.


# %% tags=["exercise:texts", "points:2"]
def texts_that_fit(weights_bytes, token_bytes, tokens, gpus, gb_each, room):
    # BEGIN SOLUTION
    left = gpus * gb_each * 1e9 * (1 - room) - weights_bytes
    return max(0, int(left // (token_bytes * tokens)))
    # END SOLUTION


# %% tags=["check:texts"]
check.texts(texts_that_fit)

# %% [markdown]
# ### 5. Stretch: keys along their channels (12 minutes, difficulty 3)
#
# Round `keys` [tokens, channels] to `bits` bits, block by block of `block` tokens: in each **whole** block each channel
# has a grid from its least to its largest number, 2^bits values, ends included. The tokens behind the last whole block
# stay as they are.


# %% tags=["exercise:keys", "points:3"]
def round_keys(keys, bits, block):
    # BEGIN SOLUTION
    done = []
    for part in keys.split(block):
        if len(part) == block:
            least, most = part.amin(dim=0), part.amax(dim=0)
            step = ((most - least) / (2**bits - 1)).clamp_min(1e-12)
            part = ((part - least) / step).round() * step + least
        done.append(part)
    return torch.cat(done)
    # END SOLUTION


# %% tags=["check:keys"]
check.keys(round_keys)

# %% [markdown]
# ### 6. In words: does it fit? (7 minutes, difficulty 2)
#
# A colleague says: "Qwen3.5-35B-A3B has 35 billion weights. In four bits with bitsandbytes that is 17.5 GB, so it fits
# my 24 GB card." Answer in four to six sentences: what is right, what three things are missing, and how you would check
# before the download.

# %% [markdown] tags=["answer:colleague"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# Right: 35 billion times half a byte is 17.5 GB. Missing: scales (4.5 bits per weight make it near 20 GB); that
# experts, most of the weights, are one tensor per layer that bitsandbytes does not find, so that nearly all of the 70
# GB stay; the cache, and room to work in.
#
# A check before the download: count the parts with `plan`, look at the bits of each, add the cache at the context that
# is needed, and compare with nine tenths of the memory. A checkpoint that comes packed (the makers publish GPTQ-Int4)
# is the way that fits.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. Four bits are 4.25 to 5 with their scales, and an option says nothing about *which* weights have them.
# 2. transformers keeps experts as one tensor, bitsandbytes looks for layers: most of a mixture stays in 16 bits.
# 3. Experts are most of the bytes and bear few bits; embedding and attention suffer; a router saves nothing.
# 4. A cache is rounded too: keys along channels, values along tokens, a RoPE key best of all.
# 5. A plan is weights in a format, the cache of all texts, and room; it is arithmetic that a config allows.
#
# | idea | formula | cost |
# |---|---|---|
# | bits per weight | 8 x all bytes / weights | counted, not claimed |
# | INT4, group g | 4 + 16 / g | one pass over the weights |
# | experts only | 16 - (16 - 4.5) x share of experts | next to no score here |
# | cache, b bits, group g | b + 24 / g a number | newest block waits, along channels |
# | rounding in training | w + (round(w) - w).detach() | some steps, all data |
# | fits | weights + texts x cache + room <= memory | bytes only, not speed |

# %% [markdown]
# ## In the real models
#
# - **Kimi K2.5** is published with routed experts in INT4, groups of 32, trained so; attention, shared expert, first
#   layer, head and vision stay bf16: about 595 GB on disk. Your rule from step 6, at a trillion weights.
# - **DeepSeek-V4** stores experts in FP4, the rest in FP8, compressors in bf16; **DeepSeek-V3** everything large in
#   FP8, blocks of 128 x 128.
# - **Qwen3.5**: official FP8, and GPTQ-Int4 for 27B, 35B and 122B. **GLM-5**: bf16 and FP8.
# - **A surprise**: vLLM keeps a token's latent of DeepSeek-V3.2 in FP8 and its 64 turned numbers in bf16, 656 bytes:
#   the split that your needles asked for.
#
# Sources: `helpers/facts/models.toml` and `stored_caches.toml`, looked up on 23 and 25 November 2026.

# %% [markdown]
# ## Roads not taken
#
# - **Other bits for every expert.** Rare experts could have fewer. It needs loads measured on your own text.
# - **Better rounding.** GPTQ and AWQ (lesson [[gptq_awq]]) choose codes by what the layer does; here every number is
#   rounded to its neighbour.
# - **Activations in few bits.** Then products get faster too, on machines that multiply such numbers.
#
# **Next: [[kernels]].** Fewer bytes are fewer seconds only if a kernel reads them packed.
