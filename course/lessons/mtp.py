# %% [markdown]
# # Multi-token prediction
#
# **Does it help to guess two tokens ahead?**
#
# 45 minutes, without the stretch exercise · needs: lesson [[experts]] · runs on any laptop, without a network
#
# Lesson [[experts]] ended with a part of the model that nobody had looked at. You will build it, load its weights by
# hand, see what it does to the model's own training, let it guess one, two and three tokens ahead, and write text with
# it: fewer passes, the same tokens. Then comes the bill. Here is the whole idea.
#
# ```text
#     token t --> [ the model: all its blocks ] --> hidden t --> head --> token t+1       sure
#                                                     |                      |
#                                                     +------> join <--------+
#                                                               |
#                                                        [ one block ] --> same head --> token t+2    a guess
#                                                               |                            |
#                                                               +--------> join <------------+
#                                                                           |
#                                                                          ...  --> token t+3         a bolder one
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo:tiny-deepseek-v3"  # or a folder with a small DeepSeek-V3 in one file, drafter included
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import mtp as check
from helpers.plots import show
from helpers.plots.decoding import drafts as draw
from helpers.units import format_count, format_seconds

machine = begin(scale, checkpoint, device, seed)
torch.set_num_threads(1)  # a second thread would measure who else uses this machine

# %% [markdown]
# ## By hand
#
# All the difficulty of this lesson is in the **shifts**, so make them visible. Six tokens. Let the hidden state of
# place t be two numbers, the place and the token that was read there; and let the embedding of token i be 11 times i.

# %%
ids = torch.tensor([4, 1, 3, 0, 2, 1])
hidden = torch.stack([torch.arange(6), ids], dim=1)
told, target = ids[1:-1], ids[2:]
for t in range(4):
    read = hidden[t].tolist()
    print(f"hidden (place, token) {read}, main head says {ids[t + 1]}", end="; ")
    print(f"told {told[t]} (embedding {11 * told[t]:2}), drafter says {target[t]}")

# %% [markdown]
# Read the first row. The model has read token 4 at place 0 and must say 1. The **drafter** (papers say MTP module,
# for multi-token prediction) gets what the model made of place 0, is told that the next token is 1, and must say 3,
# the one after. Six tokens give five lessons for the head and four for the drafter: the last two places have nothing
# to be held to.

# %% [markdown]
# ## Predict
#
# The zoo's model has learned names of countries, months and days by heart, and its drafter was trained afterwards.
# **How many percent of the drafter's guesses, within answers, does the model agree with?** If so many are right, **how
# many times as fast does this machine write with one guess a pass** (1 is as fast as without)? And where the drafter's
# loss is added to a model's own from the first step, **by how many percent does the model's own loss change**
# (negative is better)?

# %% tags=["predict:all"]
accepted_percent = ...
times_as_fast = ...
loss_change_percent = ...
# BEGIN SOLUTION
accepted_percent = 60
times_as_fast = 1.4
loss_change_percent = -2
# END SOLUTION
check.predict("mtp.accepted", accepted_percent, unit="%")
check.predict("mtp.fast", times_as_fast, unit="times")
check.predict("mtp.loss", loss_change_percent, unit="%")

# %% [markdown]
# ## Build
#
# ### 1. The module
#
# Two norms, since an embedding and a hidden state have different sizes; one matrix that joins both; one block like
# those of the model; a norm before the head. Embedding and head are the model's own. The block is whatever the family
# has: that is all in which DeepSeek-V3, GLM-5 and Qwen3.5 differ.

# %%
from torch import nn


class Module(nn.Module):
    def __init__(self, width, block, norm):
        super().__init__()
        self.token_norm, self.hidden_norm, self.norm = norm(width), norm(width), norm(width)
        self.join = nn.Linear(2 * width, width, bias=False)
        self.block = block

    def forward(self, hidden, tokens, *where, **named):
        both = torch.cat([self.token_norm(tokens), self.hidden_norm(hidden)], dim=-1)
        return self.norm(self.block(self.join(both), *where, **named))


# %% [markdown]
# The token stands first, the hidden state second. Swap them and a checkpoint loads without a complaint, and guesses
# nonsense.
#
# ### 2. Load it by hand
#
# In a checkpoint the module hides behind the last block, as one block more. transformers drops it when it loads a
# model. Look for it in the file.

# %%
from safetensors.torch import load_file
from transformers import AutoTokenizer

from helpers.checkpoints import load, resolve

folder = resolve(checkpoint, download=True)
model, tokenizer = load(folder, torch.float32), AutoTokenizer.from_pretrained(folder)
number, file = str(model.config.num_blocks), load_file(folder / "model.safetensors")
inside = {name: tensor for name, tensor in file.items() if name.startswith(f"model.layers.{number}.")}
print(f"{len(inside)} tensors, {format_count(sum(map(torch.numel, inside.values())))} parameters; among them")
print([name.removeprefix(f"model.layers.{number}.") for name in inside if "experts" not in name and "attn" not in name])

# %% [markdown]
# `enorm` and `hnorm` are the two norms, `eh_proj` the matrix, `shared_head.norm` the last norm, and the rest is a block
# with experts. Fill your class from the file; the helper knows how our names are published.

# %%
from helpers.layers.norm import RMSNorm
from helpers.models.configs.deepseek_v3 import published_name
from helpers.models.deepseek_v3 import Block
from helpers.models.published import names_of_experts


# %%
def tensor_of(name):
    there = published_name(f"drafters.{number}.{name}")
    if "{e}" not in there:
        return file[there].float()
    every = names_of_experts(there, model.config.num_experts)  # of each expert one tensor, or gate and up
    return torch.stack([torch.cat([file[part].float() for part in parts]) for parts in every])


def new_module():
    norm = lambda width: RMSNorm(width, model.config.norm_epsilon)  # noqa: E731
    return Module(model.config.width, Block(model.config, dense=False), norm)


mine = new_module()
print(mine.load_state_dict({name: tensor_of(name) for name in mine.state_dict()}))

# %% [markdown]
# Every weight of your class was in the file.
#
# ### 3. The shared head
#
# Why no head of its own? Count what sharing saves, here and in DeepSeek-V3.

# %%
from helpers.models.configs.deepseek_v3 import from_hf
from helpers.models.deepseek_v3 import Drafter
from helpers.planning.plan import published

unsaid = {"rms_norm_eps": 1e-6, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "rope_theta": 1e4}
large = from_hf({**unsaid, **published("deepseek_v3")})
for name, config in {"here": model.config, "DeepSeek-V3": large}.items():
    with torch.device("meta"):  # sizes without memory
        own = sum(weight.numel() for weight in Drafter(config).parameters())
    matrix = config.vocab_size * config.width
    print(f"{name}: the module has {format_count(own)}, a head {format_count(matrix)}, an embedding as much again")
    print(f"   with both of its own: {format_count(own + 2 * matrix)}")

# %% [markdown]
# DeepSeek rounds the last number to 14 billion: their file holds copies of embedding and head beside the module, and
# what runs is shared. Sharing saves memory, and more: the head already knows which direction means which token, so
# that the module only has to point there.
#
# ### 4. The shifts
#
# Now the loss, on rows of facts: `rows.answer` is True where a token belongs to an answer. The numbers `told` and
# `target` say how far the drafter's input and goal are shifted.

# %%
from torch.nn import functional

from helpers.layers.ragged import standing_at
from helpers.zoo.evidence.facts import some_rows

rows = some_rows(tokenizer.backend_tokenizer)


def places(ids):
    rows = standing_at(torch.arange(ids.shape[1]).expand(ids.shape))
    return rows, model.rotary(rows.positions, torch.float32)


def draft_loss(module, rows, told=1, target=2):
    ids, n = rows.token_ids, rows.token_ids.shape[1] - 2
    hidden = model.read(ids)[:, :n]
    drafted = module(hidden, model.embedding(ids[:, told : told + n]), *places(ids[:, :n]))
    answer = rows.answer[:, target : target + n]
    return functional.cross_entropy(model.logits(drafted)[answer], ids[:, target : target + n][answer])


# %%
torch.manual_seed(seed)
untrained = new_module()
with torch.no_grad():
    print(f"told t+1, says t+2: {draft_loss(mine, rows):6.2f} nats per token")
    print(f"told t,   says t+2: {draft_loss(mine, rows, told=0):6.2f}   the shift that people get wrong")
    print(f"told t+1, says t+1: {draft_loss(mine, rows, target=1):6.2f}   held to what it was told")
    print(f"an untrained module: {draft_loss(untrained, rows):5.2f}")

# %% [markdown]
# One place off, and a good module looks broken. The third line is the dangerous one in **training**: a module that is
# held to what it was told learns to copy, its loss falls towards zero, and it guesses nothing.
#
# How often does the model agree with the guess? The helper asks behind every token of a text that is given: what does
# the drafter say, and what does the model itself say when it gets there? A guess on which they agree is **taken**.

# %%
from helpers.zoo.evidence.facts import acceptance

for name, module in {"an untrained": untrained, "the trained": mine}.items():
    model.drafters[number].load_state_dict(module.state_dict())
    taken = acceptance(model, rows)["in answers"]
    print(f"{name} drafter: {taken:.1%} of its guesses in answers are taken")
check.reveal("mtp.accepted", machine=100 * taken, unit="%")

# %% [markdown]
# ### 5. With and without
#
# The zoo's drafter was trained last, on a frozen model. DeepSeek trained it **together** with the model, on the sum of
# both losses, in the hope that who must plan ahead learns more. Is it so at this size? Small models, the same seeds,
# the same rows: once alone, once with 0.3 of the drafter's loss on top.

# %%
from dataclasses import replace

from helpers.data import ask
from helpers.data.tasks import Example, Phase, TaskBatches
from helpers.zoo import fact_data

small = replace(
    model.config, width=48, num_blocks=2, num_dense_blocks=2, mlp_width=96, num_experts=4, experts_per_token=1
)
languages = ("de", "fr", "es", "pl", "tr", "vi", "ru", "el", "ar", "hi", "ja", "ko")
few = [fact for fact in fact_data.facts() if fact.locale in languages and fact.kind != "territory"]


def draw_few(rng, left):
    return Example("facts", "\n", tuple((ask(fact), f"={fact.answer}\n") for fact in rng.sample(few, left // 4)))


batches = TaskBatches(tokenizer.backend_tokenizer, (Phase(10**6, 8, 64, draw_few),), seed)
print(f"{len(few)} facts to learn by heart: months and days in {len(languages)} languages")


# %%
from helpers.training.losses import answers_of, drafts_from


def sum_of_losses(weight):
    def loss(model, rows):
        hidden = model.read(rows.token_ids[:, :-1])
        own = answers_of(model.logits(hidden), rows)
        return own + weight * drafts_from(model, hidden[:, :-1], rows) if weight else own

    return loss


# %% [markdown]
# `drafts_from` is your loss with the helper's module. Both students of a seed begin with the same weights and read the
# same rows; they are asked on other rows of the same facts.

# %%
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.training.losses import nats_of_answers
from helpers.training.train import Settings, initialise, train

steps, seeds = {"smoke": (10, 2), "laptop": (120, 3), "full": (1000, 5)}[scale]
results, asked = {}, TaskBatches(tokenizer.backend_tokenizer, (Phase(1, 32, 64, draw_few),), seed + 77)[0]
for n in range(seeds):
    for weight in (0.0, 0.3):
        student = DeepSeekV3(replace(small, num_drafters=int(weight > 0)))
        initialise(student, seed + n, std=0.08)  # the model's own weights are the same for both
        run = train(student, batches, Settings(steps, lr=4e-3, warm_up=20), loss=sum_of_losses(weight))
        results[n, weight] = nats_of_answers(student.eval(), asked), run.cpu_s
    alone, joint = (results[n, weight][0] for weight in (0.0, 0.3))
    print(f"seed {n}: alone {alone:.3f} nats, with the module {joint:.3f} ({100 * (joint / alone - 1):+.1f} %)", end="")
    print(f"; {acceptance(student, asked)['in answers']:.0%} of its guesses in answers are taken")

# %% [markdown]
# Three numbers matter: how much the loss changed on average, how far single seeds are from that average, and what a
# step costs.

# %%
changes = [100 * (results[n, 0.3][0] / results[n, 0.0][0] - 1) for n in range(seeds)]
longer = sum(results[n, 0.3][1] for n in range(seeds)) / sum(results[n, 0.0][1] for n in range(seeds))
spread = max(results[n, 0.0][0] for n in range(seeds)) / min(results[n, 0.0][0] for n in range(seeds)) - 1
check.reveal("mtp.loss", machine=sum(changes) / seeds, unit="%")
print(f"from {min(changes):+.1f} % to {max(changes):+.1f} % over {seeds} seeds; the seeds alone differ by {spread:.1%}")
print(f"and a step with the module takes {longer:.2f} times the CPU time; a student has", end=" ")
print(format_count(sum(weight.numel() for weight in student.parameters())), "parameters, module included")

# %% [markdown]
# Read it as it falls, beside what the seeds alone do. When this lesson was written, the module made the model a little
# worse with every seed. And each step costs more: half as many blocks again are at work, and the head once more.
# DeepSeek reports better scores, for models with a hundred thousand times as many parameters at work. Both can be
# true: perhaps a small model has no room to spare for a second aim. What you get in any case is the **guess**.
#
# ### 6. Deeper
#
# The module's output has the shape of its input. So let it run on: it takes its own output for the hidden state, and
# its own guess for the token. DeepSeek-V3 trains **one** depth and engines let it run deeper all the same.


# %%
@torch.inference_mode()
def guess(model, hidden, told, cache, depth):
    """The `depth` tokens behind those that it is told, one after the other."""
    guesses = []
    for _ in range(depth):
        hidden = model.ahead(hidden, told, cache)[:, -1:]
        told = model.logits(hidden).argmax(dim=-1)
        guesses.append(told)
        if len(guesses) == 1:
            cache.checkpoint()  # what comes now was only guessed
    cache.rollback(torch.zeros_like(cache.lengths))
    return torch.cat(guesses, dim=1)


# %%
from helpers.decoding.acceptance import acceptance_by_depth, tokens_per_pass

texts, answers = (part[:4, :32] if scale == "smoke" else part[:16] for part in (rows.token_ids, rows.answer))
by_depth = {"as it is": acceptance_by_depth(model, texts, 3, answers)}
print("taken, of those reached:", " ".join(f"{share:.0%}" for share in by_depth["as it is"]))
print(f"tokens per pass with three guesses: {tokens_per_pass(by_depth['as it is']):.2f}")

# %% [markdown]
# `model.ahead` is the helper's module without the head, and the cache is the module's own. Among guesses whose earlier
# ones were right, the share still falls, for two reasons: each step is one further from what the model itself has
# made, and the module never saw its own output in training. GLM-5 repairs the second: **the same module is trained at
# three depths**. Repeat that on the zoo's drafter, in few steps, beside the same steps at one depth. The model stays
# frozen.

# %%
from helpers.training.losses import drafts as draft_losses
from helpers.training.train import train_only

steps = {"smoke": 4, "laptop": 60, "full": 600}[scale]
every_fact = replace(batches, phases=(Phase(10**6, 8, 96, fact_data.draw),), seed=seed + 5)
for depths in (1, 3):
    student = load(folder, torch.float32)
    train_only(student, lambda name: name.startswith("drafters."))
    at_depths = lambda model, rows, depths=depths: draft_losses(model, rows, depths)  # noqa: E731
    run = train(student, every_fact, Settings(steps, lr=1e-3, warm_up=5), loss=at_depths)
    name = f"{steps} steps more, at {depths} depth{'s' * (depths > 1)}"
    by_depth[name] = acceptance_by_depth(student.eval(), texts, 3, answers)
    print(f"{name}: {run.cpu_s:.0f} s of CPU, {tokens_per_pass(by_depth[name]):.2f} tokens per pass")

# %%
one, three = list(by_depth.values())[1:]
finding = f"Third guesses: {one[2]:.0%} taken after training at one depth, {three[2]:.0%} at three"
show(draw.acceptance(by_depth, finding))
print(f"and first guesses: {one[0]:.1%} at one depth, {three[0]:.1%} at three")

# %% [markdown]
# Look at both ends of the lines. When this lesson was written, training at three depths lifted the later guesses and
# paid with the first: the same weights then serve three aims. Whether that is a gain depends on how many guesses you
# use.
#
# ### 7. Write with guesses
#
# A guess must never change what the model writes. So each pass reads the newest token **and** the guesses. The model
# says what it would have written behind each; guesses are kept up to the first difference, and the model's own token
# follows. What was read of the wrong guesses goes out of the cache.


# %%
@torch.inference_mode()
def write(model, ids, count, depth):
    cache, drafts = model.new_cache(), model.new_draft_cache()
    hidden = model.read(ids, cache)
    newest = model.logits(hidden[:, -1:]).argmax(dim=-1)
    told, written, passes = torch.cat([ids[:, 1:], newest], dim=1), [newest], []
    while sum(part.shape[1] for part in written) < count:
        guesses = guess(model, hidden, told, drafts, depth)
        cache.checkpoint()
        hidden = model.read(torch.cat([newest, guesses], dim=1), cache)
        said = model.logits(hidden).argmax(dim=-1)
        right = int((guesses == said[:, :-1]).int().cumprod(dim=1).sum())
        cache.rollback(torch.tensor([right + 1]))
        hidden, told, newest = hidden[:, : right + 1], said[:, : right + 1], said[:, right : right + 1]
        written.append(told)
        passes.append((guesses[0], right))
    return torch.cat(written, dim=1)[:, :count], passes


# %%
from helpers.generate import generate

prompt = tokenizer("\nde|m1=Januar\nde|m2=Februar\nde|m3", return_tensors="pt").input_ids
plain = generate(model, prompt, 24)[:, prompt.shape[1] :]
for depth in (1, 2, 3):
    text, passes = write(model, prompt, 24, depth)
    print(
        f"guesses per pass: {depth}; {len(passes) + 1} passes in place of 24, same tokens: {torch.equal(text, plain)}"
    )
print(repr(tokenizer.decode(plain[0])))

# %% [markdown]
# `cumprod` is the whole rule: behind the first wrong guess nothing counts, right or not, because it was guessed on top
# of something that is not there. The text does not depend on the drafter at all. A bad one costs time, never words.
# (That holds for the most likely token. What to do where tokens are drawn by chance is lesson [[speculative]].)

# %% [markdown]
# ## Check
#
# ### DeepSeek-V3 against transformers
#
# transformers has an `MtpLayer`. Replace **every** number of the checkpoint by a random one, let both sides load the
# file, and compare the drafted logits.

# %%
import tempfile
from pathlib import Path

from safetensors.torch import save_file

from helpers.compare import max_error

scratch = Path(tempfile.mkdtemp())
(scratch / "config.json").write_bytes((folder / "config.json").read_bytes())
shaken = {name: ("norm" in name) + 0.2 * torch.randn(tensor.shape) for name, tensor in file.items()}
save_file(shaken, scratch / "model.safetensors", metadata={"format": "pt"})
ours = load(scratch, torch.float32)
mine.load_state_dict(ours.drafters[number].state_dict())

# %% [markdown]
# transformers looks for the module at layer 61 and nowhere else, so it must be told where a small model keeps it.

# %%
from transformers import DeepseekV3ForCausalLM
from transformers.modeling_layers import MtpModel
from transformers.utils import logging

logging.disable_progress_bar()
DeepseekV3ForCausalLM._keys_to_ignore_on_load_unexpected = [rf"model\.layers\.{number}\..*"]
eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
theirs = DeepseekV3ForCausalLM.from_pretrained(scratch, dtype=torch.float32, **eager).eval()
their_module = MtpModel.from_pretrained(theirs).eval()


# %%
def their_logits(hidden, told):
    where = torch.arange(told.shape[1])[None]
    return their_module._project_to_logits(their_module.forward_layer(0, hidden, where, None, input_ids=told))


with torch.no_grad():
    for length in (2, 7, 33):
        ids = torch.randint(model.config.vocab_size, (1, length))
        hidden, told = ours.read(ids)[:, :-1], ids[:, 1:]
        wanted = their_logits(theirs(ids, output_hidden_states=True).hidden_states[-1][:, :-1], told)
        yours = ours.logits(mine(hidden, ours.embedding(told), *places(told)))
        print(f"{length:2} tokens: yours {max_error(yours, wanted):.1e}, ", end="")
        print(f"the helper {max_error(ours.draft(hidden, told), wanted):.1e} from transformers")
        assert max_error(yours, wanted) < 1e-4  # logits of some ten, summed in another order

# %% [markdown]
# Now plant the classic mistake, a shift that is off by one: the drafter is told the token that the model has read
# already.

# %%
with torch.no_grad():
    wrong = ours.logits(mine(hidden, ours.embedding(ids[:, :-1]), *places(told)))
    print(f"told one too early: off by {max_error(wrong, wanted):.1f}")
    assert max_error(wrong, wanted) > 0.1

# %% [markdown]
# ### GLM-5 and Qwen3.5
#
# The same class of yours around the other families' blocks, against the same `MtpLayer`, all weights random. Here
# both sides share transformers' block, which lessons [[attention]] and [[dsa]] have compared with ours; what is checked
# is the module around it.

# %%
from transformers import GlmMoeDsaConfig, GlmMoeDsaModel, Qwen3_5TextConfig, Qwen3_5TextModel
from transformers.modeling_layers import MtpLayer

from helpers.reference import parts_of, with_cache

QWENS = parts_of(Qwen3_5TextModel, "Qwen3_5DecoderLayer", "Qwen3_5RMSNorm", "Qwen3_5TextRotaryEmbedding")
GLMS = parts_of(GlmMoeDsaModel, "GlmMoeDsaDecoderLayer", "GlmMoeDsaRMSNorm", "GlmMoeDsaRotaryEmbedding")
THEIR_NAMES = {"enorm": "token_norm", "hnorm": "hidden_norm", "post_norm": "norm", "eh_proj": "join"}
plain = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, attn_implementation="eager")
latent = dict(q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8)
index = dict(index_n_heads=16, index_head_dim=8, index_topk=4, num_hidden_layers=1, mlp_layer_types=["dense"])
glm5 = GlmMoeDsaConfig(**plain, **latent, **index, num_key_value_heads=4)
turned = dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5, mrope_section=[1, 1, 0])
kinds = dict(layer_types=["full_attention"], num_hidden_layers=1, head_dim=8, num_key_value_heads=2)
qwen35 = Qwen3_5TextConfig(**plain, **kinds, rope_parameters=turned)


# %%
@torch.no_grad()
def around(config, block, norm, rotary_of):
    rotary = rotary_of(config)
    layer = MtpLayer(config, block, norm, 0).eval()
    for name, tensor in layer.state_dict().items():
        tensor.copy_(("norm" in name) + 0.3 * torch.randn(tensor.shape))
    yours = Module(32, layer.mtp_block, lambda width: norm(width, config.rms_norm_eps))
    for name, module in THEIR_NAMES.items():
        getattr(yours, module).load_state_dict(getattr(layer, name).state_dict())
    hidden, tokens, at = torch.randn(1, 9, 32), torch.randn(1, 9, 32), torch.arange(9)[None]
    mask = torch.full((1, 1, 9, 9), -torch.inf).triu(1)
    named = dict(position_embeddings=rotary(hidden, at), attention_mask=mask, position_ids=at)
    wanted = layer(tokens, hidden, **with_cache(layer, None), **named)
    return max_error(yours(hidden, tokens, **named), wanted), max_error(yours(tokens, hidden, **named), wanted)


error, swapped = around(qwen35, *QWENS)
print(f"Qwen3.5: {error:.1e}; with token and hidden state swapped {swapped:.1f}")
assert error < 1e-5 < swapped

# %% [markdown]
# A swap of token and hidden state is caught too. GLM-5 has a surprise.

# %%
TheirBlock, *others = GLMS
try:
    around(glm5, *GLMS)
except AttributeError as stopped:
    print("GLM-5 in transformers' MtpLayer:", stopped)


class First(TheirBlock):
    def forward(self, *args, **named):
        return super().forward(*args, **named)[0]  # without the tokens that it chose


error, swapped = around(glm5, First, *others)
print(f"GLM-5, its block made to give one thing: {error:.1e}; swapped {swapped:.1f}")
assert error < 1e-5 < swapped

# %% [markdown]
# A GLM-5 block gives two things, the stream and the tokens that its attention chose, and `MtpLayer` expects one. So
# transformers 5.23 and 5.24 cannot run GLM-5's module; your class can. For Qwen3.5 it has the
# layer and drops the weights: they are called `mtp.*` in the file, and loading ignores that name.
#
# ### The whole loop
#
# Last, the helper that later lessons use, `speculate` with the draft `MTP`, beside your loop: tokens and passes must
# be equal, at awkward lengths.

# %%
from helpers.decoding.drafts import MTP
from helpers.decoding.speculative import speculate

for prompt, count, depth in (("\n", 5, 1), ("\nja|m3", 17, 2), ("\nes|d2=martes\nel|m5", 2, 3)):
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    text, passes = write(model, ids, count, depth)
    helper, sure = speculate(model, ids, MTP(model, depth), count), generate(model, ids, count)[:, ids.shape[1] :]
    assert torch.equal(text, sure)
    assert torch.equal(helper.token_ids[:, ids.shape[1] :], sure)
    print(f"{count:2} tokens by {depth} a pass: equal; your passes {len(passes) + 1}, the helper's {helper.passes}")

# %% [markdown]
# ## Measure
#
# ### What a pass gives and what it costs
#
# One guess that is taken with chance p gives 1 + p tokens per pass; n guesses give 1 + p + p² + ... + pⁿ. Against that
# stand two costs, both in passes over a single token: a pass over n + 1 tokens, and n runs of the module. Measure
# them behind 60 tokens, always interleaved with the pass over one.

# %%
from helpers.measure import measure_pair

read, cache, module_cache = rows.token_ids[:1, :60], model.new_cache(), model.new_draft_cache()
with torch.inference_mode():
    hidden = model.read(read, cache)
    model.ahead(hidden, read, module_cache)


def one_more(cache, hidden_of):
    """A pass or a guess behind 60 tokens, taken back again."""
    cache.checkpoint()
    model.logits(hidden_of()).argmax(dim=-1)
    cache.rollback(torch.zeros_like(cache.lengths))


# %%
one_pass = lambda: one_more(cache, lambda: model.read(read[:, :1], cache))  # noqa: E731
wide = {0: 1.0}
for n in (1, 2, 3):
    pair = measure_pair(one_pass, lambda n=n: one_more(cache, lambda: model.read(read[:, : n + 1], cache)))
    wide[n] = 1 / pair.ratio
one_guess = lambda: model.ahead(hidden[:, -1:], read[:, :1], module_cache)  # noqa: E731
pair = measure_pair(one_pass, lambda: one_more(module_cache, one_guess))
draft = 1 / pair.ratio
print(f"a pass over one token takes {format_seconds(pair.a.median_s)}; in such passes:")
print("over two, three, four tokens", ", ".join(f"{wide[n]:.2f}" for n in (1, 2, 3)), f"| one guess {draft:.2f}")
print(f"so one guess must be taken in more than {wide[1] + draft - 1:.0%} of the passes to win anything here")

# %% [markdown]
# A guess cannot be cheap here: the module is one block beside three, and the head runs once more. Now the formula and
# the machine: four prompts, with and without guesses, interleaved in one process, CPU time of one thread. Passes are
# counted, not reckoned.

# %%
from helpers.decoding.acceptance import speed_up

questions = ("\nde|FR=Frankreich\nfr|d1", "\nja|m3", "\npl|m7=lipiec\nsv|d5", "\nen|US")
prompts = [tokenizer(text, return_tensors="pt").input_ids for text in questions]
new, measured = (6 if scale == "smoke" else 12), {}
for depth in (1, 2, 3):
    runs = [write(model, ids, new, depth) for ids in prompts]
    rounds, right = sum(len(passes) for _, passes in runs), sum(n for _, passes in runs for _, n in passes)
    a = lambda: [generate(model, ids, new) for ids in prompts]  # noqa: E731
    b = lambda depth=depth: [write(model, ids, new, depth) for ids in prompts]  # noqa: E731
    measured[depth] = 1 + right / rounds, measure_pair(a, b, repeats=3 if scale == "smoke" else 5, warm_up=1)

# %%
for depth, (tokens, pair) in measured.items():
    reckoned = tokens / (wide[depth] + depth * draft)
    print(f"by {depth} guessed: {tokens:.2f} tokens per pass; the formula says {reckoned:.2f} times as fast, ", end="")
    print(f"the machine {pair.ratio:.2f} ({pair.ratio_q1:.2f} to {pair.ratio_q3:.2f}, {pair.a.clock})")
tokens, pair = measured[1]
check.reveal("mtp.fast", formula=tokens / (wide[1] + draft), machine=pair.ratio, unit="times")

# %% [markdown]
# Fewer passes, but less time? Below 1 drafting **loses**, and when this lesson was written it lost with one, two and
# three guesses. The formula leaves out what happens between passes (comparing, cutting the cache) and takes its costs
# from one length; see how near it comes. The share taken (tokens per pass, less 1, in the first line) is another one
# than on the rows above: four short texts are few, and a pass begins where the last one ended, often behind a
# surprise.
#
# So when does drafting win? Where a pass over a few tokens costs no more than over one, and the module is one block of
# sixty.

# %% [markdown]
# ### DeepSeek-V3 by formula
#
# Its module is one block beside 61. A GPU that waits for weights reads them once, for two tokens as for one; but a
# mixture reads **experts**, and two tokens want up to twice as many. With many readers at once all experts are read
# anyway. Count both ends, with the table of what labs state beside them.

# %%
from helpers.facts import table
from helpers.planning.plan import plan

stated = {row["model"]: row for row in table("drafters")}
v3, share = plan(published("deepseek_v3")), sum(stated["DeepSeek-V3"]["accepted"]) / 2
experts = (large.num_blocks - large.num_dense_blocks) * large.experts_per_token * 3 * large.width * large.expert_width
touched = large.num_experts * (1 - (1 - large.experts_per_token / large.num_experts) ** 2)
lone = 1 + experts * (touched / large.experts_per_token - 1) / v3.active

# %% [markdown]
# `touched` is how many experts of a layer two tokens want together, if they choose independently (lesson [[experts]]).

# %%
for name, wide_pass in {"many readers": 1.0, "a lone reader": lone}.items():
    print(f"{name}: a pass over two tokens costs {wide_pass:.2f} passes; at {share:.1%} taken ", end="")
    print(f"{speed_up([share], wide_pass, 1 / large.num_blocks):.2f} times as fast")
print("DeepSeek states", stated["DeepSeek-V3"]["times_as_fast"], "times as many tokens per second")
print(f"four guesses, each taken as often: {tokens_per_pass([share] * 4):.1f} tokens per pass;", end=" ")
print(", ".join(f"{name} gives {stated[name]['tokens_per_pass']}" for name in ("DeepSeek-V3.2", "GLM-5")))

# %%
chances = [n / 20 for n in range(21)]
costs = {"many readers, V3": (1.0, 1 / large.num_blocks), "a lone reader, V3": (lone, 1 / large.num_blocks)}
costs["this machine, tiny model"] = wide[1], draft
curves = {name: [speed_up([p], *cost) for p in chances] for name, cost in costs.items()}
lab = stated["DeepSeek-V3"]["times_as_fast"]
here = {"measured here": (measured[1][0] - 1, measured[1][1].ratio), "stated for V3": (share, lab)}
needed = {name: cost[0] + cost[1] - 1 for name, cost in costs.items()}
finding = "One guess wins where over " + ", ".join(f"{p:.0%}" for p in needed.values()) + " are taken, in this order"
show(draw.speed(chances, curves, finding, here))

# %% [markdown]
# Three lines, one formula. What is stated for V3 lies close to the line of many readers, as it should: DeepSeek
# serves many at once. A lone reader of a mixture pays for the second token's experts (reckoned as if they were chosen
# independently). Beyond the picture there is a third end: with so many readers that the processor and not the memory
# is the limit, each refused token is work that another reader could have had.

# %% [markdown]
# ## Play
#
# ### Your own prompt
#
# Write lines of your own (the model knows lines like `de|FR=Frankreich` best) and run the cell. Each row is one pass:
# guesses that were taken, the model's own token behind them, and below it what was refused. The first pass, over the
# prompt, is left out; a dot (·) is part of a letter.

# %%
from helpers.plots.widgets import Choice, Slider, explore

my_prompt = "\npl|m7=lipiec\nsv|d5"
samples = {"yours": my_prompt, **{text: f"\n{text}" for text in ("sw|d5", "it|TR", "en|NZ", "fi|m12", "th|m1")}}


def shown(token):
    text = tokenizer.decode([token]).replace("\ufffd", "·").replace(" ", "␣")
    return repr(text)[1:-1][:7]


def passes_picture(prompt: str, depth: int):
    own = tokenizer(samples[prompt], return_tensors="pt").input_ids
    text, passes = write(model, own, 12, depth)
    words, strip, at = [shown(token) for token in text[0]] + ["…"], [], 1
    for guesses, right in passes:
        strip.append(draw.Pass(at, [shown(token) for token in guesses], right, words[min(at + right, len(text[0]))]))
        at += right + 1
    said = repr(tokenizer.decode(text[0]))[:50]
    return draw.strip(strip, f"{len(passes) + 1} passes for {text.shape[1]} tokens: {said}")


explore(passes_picture, prompt=Choice(list(samples), "prompt"), depth=Slider(1, 4, value=2, label="guesses per pass"))

# %% [markdown]
# Three things to try:
#
# - Move to four guesses. How often is the fourth taken, and how many were refused for each that was?
# - Ask for a name that is written in pieces of letters, in Thai or Georgian (`th|m1`, `ka|FR`). Which tokens are easy:
#   the first of a word, or the later ones?
# - Write something that the model never saw. The text gets strange and the strip does not: it is the model's agreement
#   with itself, not with the truth.

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: tokens per pass (5 minutes, difficulty 1)
#
# Each guess is right with chance `p`, whatever came before it, and counts only if all before it were right. How many
# tokens does one pass give on average with `n` guesses, the model's own token included? `p` may be 1.


# %% tags=["exercise:tokens", "points:1"]
def tokens_each_pass(p, n):
    # BEGIN SOLUTION
    return sum(p**k for k in range(n + 1))
    # END SOLUTION


# %% tags=["check:tokens"]
check.tokens(tokens_each_pass)

# %% [markdown]
# ### 2. Core: the shifts at any depth (8 minutes, difficulty 2)
#
# The module at depth d goes on from what it made at depth d - 1, is told token t + d at place t, and must say token
# t + d + 1. Given `ids` [rows, T] and `depth` (1 or more), return `(told, target)`, both [rows, T - depth - 1].


# %% tags=["exercise:shift", "points:2"]
def shifted(ids, depth):
    # BEGIN SOLUTION
    return ids[:, depth:-1], ids[:, depth + 1 :]
    # END SOLUTION


# %% tags=["check:shift"]
check.shift(shifted)

# %% [markdown]
# ### 3. Core: what sharing saves (6 minutes, difficulty 2)
#
# A module has three norms of `width` numbers, the matrix that joins two vectors of `width` into one, and a block of
# `block` parameters. A model has `modules` of them; all share its embedding and head, each `vocab` x `width`, which
# are **one** matrix where the model is `tied`. Return two whole numbers: parameters of all modules, and how many more
# they would be if each module held copies of embedding and head.


# %% tags=["exercise:shared", "points:2"]
def own_and_saved(width, vocab, block, modules, tied):
    # BEGIN SOLUTION
    own = 3 * width + 2 * width * width + block
    return modules * own, modules * vocab * width * (1 if tied else 2)
    # END SOLUTION


# %% tags=["check:shared"]
check.shared(own_and_saved)

# %% [markdown]
# ### 4. Core: the weight of the guess (8 minutes, difficulty 2)
#
# DeepSeek-V3 adds to the model's own loss the **mean** over its modules' losses, times 0.3 until 10 trillion tokens
# have been read, then times 0.1. Given `own` (a number), the list `ahead` of the modules' losses (it may be empty),
# and `read`, the tokens so far, return the loss that is trained.


# %% tags=["exercise:weight", "points:2"]
def whole_loss(own, ahead, read):
    # BEGIN SOLUTION
    if not ahead:
        return own
    weight = 0.3 if read < 10e12 else 0.1
    return own + weight * sum(ahead) / len(ahead)
    # END SOLUTION


# %% tags=["check:weight"]
check.weight(whole_loss)

# %% [markdown]
# ### 5. Stretch: how many guesses? (12 minutes, difficulty 3)
#
# `chances[k]` is the share of guess k + 1 that is taken, of those reached. `wide[n]` is the cost of a pass over n + 1
# tokens, `wide[0]` = 1; there is one entry more in it than in `chances`. One guess costs `draft`. Return how many
# guesses are fastest, 0 where none pays; of equals the fewest.


# %% tags=["exercise:depth", "points:3"]
def fastest_depth(chances, wide, draft):
    # BEGIN SOLUTION
    best, fastest, tokens, reached = 0, 1.0, 1.0, 1.0
    for n, chance in enumerate(chances, start=1):
        reached *= chance
        tokens += reached
        if tokens / (wide[n] + n * draft) > fastest + 1e-9:
            best, fastest = n, tokens / (wide[n] + n * draft)
    return best
    # END SOLUTION


# %% tags=["check:depth"]
check.depth(fastest_depth)

# %% [markdown]
# ### 6. In words: twice as fast? (8 minutes, difficulty 2)
#
# A colleague says: "The module is right nine times out of ten, so our server gives nearly twice the tokens, for
# everybody, and if it guesses badly the answers get worse." Answer in three to five sentences: what is right, what is
# wrong, and what you would measure before you believe it.

# %% [markdown] tags=["answer:twice"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# Right: 1.9 tokens per pass. Wrong: a pass over two tokens is only as cheap as one where weights, not operations, are
# the limit; a lone reader of a mixture reads more experts, and a full server has no idle operations to spend. Wrong
# too: bad guesses never change the answer, they cost time. Measure tokens per second at your own batch size and texts,
# with and without, and the share that is taken on your texts: code and forms are easier to guess than prose.
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. The module joins what the model made of token t with the embedding of token t + 1, and says token t + 2.
# 2. It has one block of its own; embedding and head are the model's.
# 3. One place off and it fails, or learns to copy what it was told.
# 4. Trained together it makes a step dearer, and a gain must be measured against the seeds; as a drafter it saves
#    passes and never changes a word.
# 5. It is faster where a pass over a few tokens costs as much as over one, and a loss where it does not.
#
# | idea | formula | cost |
# |---|---|---|
# | module | norm(block(join[norm(token); norm(hidden)])) | one block, 2 D² for the join |
# | loss | own + λ mean over depths | a module's pass and the head's once more, a depth |
# | tokens per pass | 1 + p + p² + ... + pⁿ | n guesses, a pass over n + 1 tokens |
# | times as fast | tokens per pass / (wide pass + n x draft) | below 1: a loss |
# | rule of agreement | keep guesses up to the first difference | wrong ones leave the cache |

# %% [markdown]
# ## In the real models
#
# - **DeepSeek-V3**: one module at layer 61, trained at one depth with weight 0.3, later 0.1. 85 to 90 % of second
#   tokens are taken, 1.8 times the tokens per second, as its report states.
# - **GLM-5**: one module, trained at three depths with shared weights. With four guesses a pass gives 2.76 tokens, and
#   2.55 for DeepSeek-V3.2, on Z.ai's own prompts.
# - **Qwen3.5**: one module, `mtp.*` in the file, of the attention kind (not DeltaNet), embedding and head shared.
# - **A surprise**: were V3.2's four guesses taken as often as V3's first, a pass would give 3.9 tokens, as reckoned
#   above, 2.9 of them guessed. Stated are 2.55, of them 1.55 guessed: nearly half is lost on the way down.
# - **As training**: DeepSeek's own comparison, of models with 21 billion active parameters, has HumanEval at 53.7 with
#   the module and 44.5 without, GSM8K at 74.0 and 72.3.
#
# Rows of `helpers/facts/drafters.toml`, with their sources, looked up on 25 November 2026.

# %% [markdown]
# ## Roads not taken
#
# - **Heads side by side** (Gloeckle and others, 2024): several heads guess t + 2, t + 3, ... from one hidden state.
#   None sees what another guessed, so deep guesses do not fit together.
# - **A tree of guesses.** Verify several second tokens at once, and keep the branch that is right.
# - **A curriculum** (Aynetdinov and Akbik, ACL 2025). Begin with the next token alone and add the later ones step by
#   step; at 1.3 and 3 billion parameters, with heads side by side, they report a gain. Let the weight in
#   `sum_of_losses` grow.
#
# **Next: [[training_bill]].** What does a training run cost? And lesson [[speculative]] takes the loop from here:
# drafts of every kind, and tokens drawn by chance, still exact.
