# %% [markdown]
# # Open a model
#
# **What is inside the file that people call "the model", and does it run without a network?**
#
# 60 minutes, without the two stretch exercises · needs: lesson [[roofline]] (bytes, seconds, and how they are measured
# here) · runs on any laptop, without a network
#
# You will type a checkpoint by hand, read a real one byte by byte, prove that nothing was lost, and then plan the
# memory of models with up to a trillion parameters without downloading any of them. Here is the whole idea.
#
# ```text
#     config.json            tokenizer.json          model.safetensors
#     one page of sizes      a list of pieces        8 bytes | header | numbers numbers numbers
#          |                       |                  length    JSON    one run of bytes a tensor
#          v                       v                                          |
#     a skeleton:             text <-> token ids                              | each run to its name
#     names and shapes             |                                          v
#          +-----------------------+-------------------------> a model that writes text
# ```

# %% tags=["parameters"]
scale = "laptop"  # "smoke" for a check in seconds, "laptop" for 2 CPU cores, "full" for a GPU
checkpoint = "zoo"  # or a Hugging Face id, or a folder: the same cells on a real model
device = "auto"
seed = 0

# %%
import torch

from course.begin import begin
from course.checks import open_a_model as check
from helpers.checkpoints import resolve, tensors
from helpers.plots import checkpoint as draw
from helpers.plots import show
from helpers.units import GB, format_bytes, format_count, format_seconds

machine = begin(scale, checkpoint, device, seed)
folder = resolve(checkpoint, download=True)  # downloads only when `checkpoint` is the id of a model on the hub
stored = tensors(folder)  # what is no checkpoint is refused here, in one line

# %% [markdown]
# ## By hand
#
# ### Three tensors
#
# A safetensors file has three pieces: eight bytes that say how long the header is, the header itself, which is JSON,
# and the numbers. Here are a matrix, a vector and a single number. You write the header as a Python dict, and the
# numbers as the bytes that they are.

# %%
import json

table = {
    "matrix": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    "vector": {"dtype": "BF16", "shape": [2], "data_offsets": [12, 16]},
    "scale": {"dtype": "F32", "shape": [], "data_offsets": [16, 20]},
}
text = json.dumps(table).encode()
numbers = bytes.fromhex("803f 0040 4040  8040 a040 c040    00bf 0080    cdcccc3d")
by_hand = len(text).to_bytes(8, "little") + text + numbers
print(f"{8} + {len(text)} + {len(numbers)} = {len(by_hand)} bytes")

# %% [markdown]
# The offsets count from the **end of the header**. The matrix takes the first 12 bytes: six numbers of two bytes each.
# Look at the file as a disk sees it: eight bytes of length, then text that you can read, then bytes that you cannot
# read yet.

# %%
print("length ", by_hand[:8].hex(" "), "=", int.from_bytes(by_hand[:8], "little"))
print("header ", by_hand[8:60].decode(), "...")
print("numbers", by_hand[-20:].hex(" "))

# %% [markdown]
# The length is **little-endian**: the small end comes first, so `ce 00` is 206 and not 52,736. Does the library that
# everybody uses read what you typed? Write it to a disk and ask.

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file

room = TemporaryDirectory()  # gone when the kernel ends
tiny = Path(room.name) / "tiny.safetensors"
tiny.write_bytes(by_hand)
load_file(tiny)

# %% [markdown]
# ### A number in two bytes
#
# `80 3f` became 1.0. In **bf16** the 16 bits are a sign, eight bits of exponent and seven of fraction, and the value
# is sign x (1 + fraction / 128) x 2^(exponent - 127). The low byte comes first here too, so `80 3f` is the word `3f80`.
# It is a float32 with its last 16 bits cut off: the same range, a third of the digits.


# %%
def bf16(low: int, high: int) -> float:
    word = high << 8 | low
    sign = -1 if word >> 15 else 1
    exponent = word >> 7 & 0xFF
    fraction = word & 0x7F
    return sign * (1 + fraction / 128) * 2.0 ** (exponent - 127)


pairs = [numbers[i : i + 2] for i in range(0, 14, 2)]
print({pair.hex(" "): bf16(*pair) for pair in pairs})

# %% [markdown]
# Seven pairs, seven numbers. The eighth in the file, `00 80`, is different: an exponent of all zeros means zero (here
# a negative one) or a number too small for the rule, and all ones mean infinity or no number. The quick way to all
# of them: put 16 zero bits behind each word and call it float32. There are only 65,536 words, so try every one.

# %%
words = torch.arange(2**16, dtype=torch.int32)
by_shift = (words << 16).view(torch.float32)
by_torch = words.to(torch.uint16).view(torch.bfloat16).float()
same = by_shift.view(torch.int32) == by_torch.view(torch.int32)
print(f"{same.sum():,} of {len(words):,} words agree, bit by bit")
print(f"near 1 the next number is {by_shift[0x3F81] - 1:.4f} away, near 256 it is {by_shift[0x4381] - 256:.0f} away")

# %% [markdown]
# ## Predict
#
# The checkpoint that you are about to open (unless you chose another) is a small language model. Its **embedding** is a
# table with one row for each of its 2,048 tokens; behind it stand six layers of attention and feed-forward matrices.
# Two guesses about its file.

# %% tags=["predict:sizes"]
embedding_percent = ...  # of 100 parameters of the small model, how many are in the embedding table?
times_faster = ...  # how many times faster is opening its file than reading all of it?
# BEGIN SOLUTION
embedding_percent = 20
times_faster = 100
# END SOLUTION
check.predict("open_a_model.embedding", embedding_percent, unit="%")
check.predict("open_a_model.lazy", times_faster, unit="x")

# %% [markdown]
# GLM-5 has 744 billion parameters, most of them in **experts**: feed-forward blocks of which each token is sent to a
# few. Two guesses about it. Nothing is revealed yet; a wrong guess that you wrote down teaches more than none.

# %% tags=["predict:glm5"]
glm5_gb = ...  # how many GB are its weights in bf16?
glm5_active = ...  # how many billion of its parameters work on one token?
# BEGIN SOLUTION
glm5_gb = 1500
glm5_active = 100
# END SOLUTION
check.predict("open_a_model.glm5_gb", glm5_gb, unit="GB")
check.predict("open_a_model.glm5_active", glm5_active, unit="billion")

# %% [markdown]
# ## Build
#
# ### 1. Read a header
#
# The real file differs from yours in size alone. Read eight bytes, then as many as they say, and stop: every name,
# type, shape and place is known, and not one weight has been touched.

# %%
file = sorted(folder.glob("*.safetensors"))[0]
with open(file, "rb") as opened:
    length = int.from_bytes(opened.read(8), "little")
    header = json.loads(opened.read(length))
note = header.pop("__metadata__", {})

print(f"{file.name}: {format_bytes(file.stat().st_size)}, header {format_bytes(length)}, {len(header)} tensors")
print("a note of its writer:", note)
for name in list(header)[:4]:
    print(f"  {name}: {header[name]}")

# %% [markdown]
# The names tell the architecture. A function of two lines sorts them into parts, and the picture shows the file from
# its first byte to its last.

# %%
from helpers.models.components import part_of

places = sorted(header.items(), key=lambda entry: entry[1]["data_offsets"])
runs = [(part_of(name), row["data_offsets"][1] - row["data_offsets"][0]) for name, row in places]
share = 100 * sum(size for kind, size in runs if kind == "embedding") / sum(size for _, size in runs)
runs = [("header", 8 + length), *runs]
show(draw.byte_map(runs, f"{share:.0f} % of the bytes are the embedding; the header is a thin line at the left"))
check.reveal("open_a_model.embedding", machine=share, unit="%")

# %% [markdown]
# ### 2. Take one tensor
#
# A **memory map** makes the file look like one long array. The operating system fetches a piece when you touch it,
# and nothing before. Opened copy-on-write, what you change stays in your memory and never reaches the disk.

# %%
import numpy

mapped = torch.from_numpy(numpy.memmap(file, dtype=numpy.uint8, mode="c"))
TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def take(name: str, start: int = 8 + length) -> torch.Tensor:
    """The tensor of that name: its bytes, seen as numbers, in its shape."""
    begin, end = header[name]["data_offsets"]
    return mapped[start + begin : start + end].view(TYPES[header[name]["dtype"]]).reshape(header[name]["shape"])


# %%
name = next(name for name in header if name.endswith("embed_tokens.weight"))
embedding = take(name)
print(f"{name}: {tuple(embedding.shape)}, {embedding.dtype}, {format_bytes(embedding.nbytes)}")
print(embedding[:2, :5])

# %% [markdown]
# ### 3. A skeleton without bytes
#
# `config.json` says which architecture this is and how large. Here are some of its lines.

# %%
from helpers.checkpoints.folder import read_config

sizes = read_config(folder)
wanted = ["model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
for name in wanted:
    print(f"{name:20}", sizes.get("text_config", sizes).get(name))

# %% [markdown]
# On torch's `meta` device a module has every name and every shape, and no memory at all. The two families below are
# transformers' names for models that read text, and models that see as well.

# %%
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

config = AutoConfig.from_pretrained(folder)
family = AutoModelForCausalLM if config.get_text_config() is config else AutoModelForImageTextToText
with torch.device("meta"):
    model = family.from_config(config).eval()

parameters = dict(model.named_parameters())
print(f"{type(model).__name__}: {format_count(sum(p.numel() for p in parameters.values()))} parameters")
print("all of them on meta:", all(p.is_meta for p in parameters.values()))
for name in list(parameters)[:3]:
    print(f"  {name}: {tuple(parameters[name].shape)}")

# %% [markdown]
# ### 4. Fill it
#
# Each name of the file belongs to one name of the skeleton. **Assigning** puts the mapped tensor itself in the place
# of the empty one; copying would need memory first. The set-up cell made `stored` with `tensors(folder)`: the helper's
# version of your `take`, with every check, and it knows checkpoints that are cut into several files.


# %%
def empty(model) -> list[str]:
    """The names of all weights and buffers that have no numbers yet."""
    return [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]


outcome = model.load_state_dict(dict(stored), assign=True, strict=False)
model.tie_weights()
print("not in the file:      ", outcome.missing_keys)
print("not in the skeleton:  ", outcome.unexpected_keys[:3])
print("still without numbers:", empty(model))

# %% [markdown]
# Three things to learn from three lines. A **tied** model stores no head (the matrix that turns the last layer's output
# into scores): the embedding is used twice, and `tie_weights` joins them. Names that only the file has are parts that
# transformers does not build. And the rotary frequencies, which tell attention how far apart two tokens are (lesson
# [[attention]]), are in no file: they follow from the config. So you make each such module anew, with its numbers.

# %%
for name, module in list(model.named_modules()):
    if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
        part_config = config.vision_config if "visual" in name else config.get_text_config()
        model.set_submodule(name, type(module)(part_config))
print("still without numbers:", empty(model))

# %% [markdown]
# ### 5. Text in, text out
#
# The second file is the tokenizer: pieces of text with a number each, and the order in which to merge them. It turns
# text into ids and back without losing a byte. (Lesson [[tokenizer]] builds one.)

# %%
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)
prompt = 'def read_lines(path):\n    """Return'
ids = tokenizer(prompt, return_tensors="pt").input_ids
print([tokenizer.decode(token) for token in ids[0]])
print("round trip:", tokenizer.decode(ids[0], skip_special_tokens=True) == prompt, "| vocabulary:", len(tokenizer))

# %% [markdown]
# A language model gives a score, called a **logit**, to every token that could come next. Take the highest, append it,
# ask again: that is all of greedy generation. This loop reads the whole text again for each token; lesson [[attention]]
# stops that.


# %%
@torch.no_grad()
def write(model, ids: torch.Tensor, tokens: int) -> torch.Tensor:
    for _ in range(tokens):
        scores = model(ids).logits[:, -1]
        ids = torch.cat([ids, scores.argmax(dim=-1, keepdim=True)], dim=1)
    return ids


new_tokens = 8 if scale == "smoke" else 40
print(tokenizer.decode(write(model, ids, new_tokens)[0]))

# %% [markdown]
# Numbers from a file that you parsed, in a skeleton that you filled. The same model exists a third time: rebuilt
# from scratch in `helpers/models`, where you can read every line of it. Later lessons take it apart. `load` fills it
# from the same folder; a family that is not rebuilt yet is named in one line.

# %%
from helpers.checkpoints import load
from helpers.generate import generate

try:
    ours = load(folder, torch.float32, machine)
    generate(ours, ids.to(machine), new_tokens, stream=lambda token: print(tokenizer.decode(token), end=""))
except ValueError as error:
    ours = None
    print("not rebuilt yet:", error)

# %% [markdown]
# ## Check
#
# ### Is it the same model?
#
# Fluent text proves little, as you will see in a moment. Three comparisons prove more. Your tensors against the
# safetensors library, your filled skeleton against `from_pretrained`, both bit by bit; and the rebuilt model's logits
# against transformers' in float32, where only the order of additions may differ.

# %%
from transformers.utils import logging

from helpers.compare import max_error

logging.disable_progress_bar()
library = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
equal = [torch.equal(take(name), library[name]) for name in header]
print(f"library:         {sum(equal)} of {len(equal)} tensors equal, bit by bit")

reference = family.from_pretrained(folder, dtype="auto").eval()
theirs, yours = reference.state_dict(), model.state_dict()
equal = [torch.equal(yours[name], theirs[name]) for name in theirs]
print(f"from_pretrained: {sum(equal)} of {len(equal)} tensors equal, bit by bit")

# %%
with torch.no_grad():
    expected = reference.float()(ids).logits
    got = ours(ids.to(machine)).cpu() if ours else model.float()(ids).logits
tolerance = 1e-5 * expected.abs().max().item()  # float32 keeps seven digits; the sums may cost two of them
print(f"largest difference of {expected.numel():,} logits: {max_error(got, expected):.1e}, allowed: {tolerance:.1e}")
assert max_error(got, expected) < tolerance

# %% [markdown]
# ### Two bugs that look like success
#
# First bug: counting the offsets from the start of the file. Shapes and types are right, and no error is raised.

# %%
norm = next(name for name in header if name.endswith("norm.weight"))
print("right:", take(norm)[:4])
print("wrong:", take(norm, start=0)[:4])
print("equal to the library's:", torch.equal(take(norm, start=0), library[norm]))

# %% [markdown]
# Second bug: two matrices of the same shape, swapped. `gate_proj` and `up_proj` of a feed-forward layer always have
# the same shape, so every check of names and shapes passes. Swap them in the first layer and let the model write.

# %%
gate = next(name for name in stored if name.endswith("gate_proj.weight"))
up = gate.replace("gate_proj", "up_proj")
swapped = family.from_pretrained(folder, dtype=torch.float32).eval()
print(swapped.load_state_dict({gate: stored[up], up: stored[gate]}, strict=False).unexpected_keys, "refused")
with torch.no_grad():
    error = max_error(swapped(ids).logits, expected)
print(f"largest difference of the logits: {error:.2g}, {error / tolerance:,.0f} times what is allowed")
print(tokenizer.decode(write(swapped, ids, new_tokens)[0]))

# %% [markdown]
# The loader is content: it refuses nothing. Read the text beside the one above. Would you have noticed, without it? The
# logits leave no doubt. This is why every part of this course is compared with a reference, and never judged by its
# prose.
#
# ### A file from a stranger
#
# A checkpoint comes from the internet. Nothing in a safetensors file is a program, so the worst it can do is lie
# about its sizes. The helper's reader believes nothing: length, JSON, types, shapes and places must agree, and the
# tensors must cover the file exactly. Break your own file in six ways.

# %%
from helpers.checkpoints.safetensors import read_header

bad = {
    "cut short": by_hand[:-3],
    "length too large": (5_000).to_bytes(8, "little") + by_hand[8:],
    "length big-endian": len(text).to_bytes(8, "big") + by_hand[8:],
    "an overlap": by_hand.replace(b"[12, 16]", b"[10, 14]"),
    "a negative place": by_hand.replace(b"[12, 16]", b"[-4,  0]"),
    "an unknown type": by_hand.replace(b'"F32"', b'"F99"'),
}


# %%
def refusal(content: bytes) -> str:
    path = Path(room.name) / "bad.safetensors"
    path.write_bytes(content)
    try:
        return f"accepted: {read_header(path)}"
    except ValueError as error:
        return str(error).removeprefix(f"{path}: ")


for what, content in bad.items():
    print(f"{what:18} {refusal(content)[:118]}")

# %% [markdown]
# The older format, **pickle** (`pytorch_model.bin`), is different: it is a small program, and opening it runs it.
# These 39 bytes hold one, a harmless one. Watch it run, and watch the reader refuse it.

# %%
import pickle

program = b"\x80\x02cbuiltins\nprint\nX\x0d\x00\x00\x00a program ran\x85R."
print("opened by pickle: ", end="")
pickle.loads(program)
print("opened by helpers:", refusal(program))

# %% [markdown]
# ## Measure
#
# ### What opening costs
#
# By formula, opening reads 8 bytes and the header; reading takes every byte once. The model's own file is small, so you
# also make a file of ones, with few tensors and many bytes. The paired clock of lesson [[roofline]] decides.

# %%
from safetensors.torch import save_file

from helpers.checkpoints.safetensors import open_tensors
from helpers.measure import measure_pair

matrices = {"smoke": 4, "laptop": 32, "full": 320}[scale]
ones = Path(room.name) / "ones.safetensors"
save_file({f"layer.{n}.weight": torch.ones(1024, 1536, dtype=torch.bfloat16) for n in range(matrices)}, ones)


def read_all(path: Path) -> dict:
    return {name: tensor.clone() for name, tensor in open_tensors(path).items()}


# %%
def read_against_open(path: Path):
    return measure_pair(lambda: read_all(path), lambda: open_tensors(path), repeats=5, warm_up=1)


print("file               bytes  tensors      open      read  read/open  bytes/header")
for path in (ones, file):
    both = read_against_open(path)
    size, by_bytes = path.stat().st_size, path.stat().st_size / read_header(path).data_start
    times = f"{format_seconds(both.b.median_s):>9} {format_seconds(both.a.median_s):>9} {both.ratio:10.1f}"
    print(f"{path.name:17.17} {format_bytes(size):>7} {len(open_tensors(path)):8} {times} {by_bytes:13,.0f}")
check.reveal("open_a_model.lazy", formula=by_bytes, machine=both.ratio, unit="x")

# %% [markdown]
# Does the file with more bytes take longer to open? Compare the columns: the time to open follows the number of
# tensors, and the time to read follows the bytes. The formula counts bytes alone, and opening a small file is mostly
# other work: system calls, JSON, a check for every tensor. A ratio of bytes is a ratio of seconds only where bytes are
# what takes the time.
#
# The work moves to the first touch, and does not vanish. Count the memory that appears.

# %%
from helpers.measure import peak_memory

with peak_memory() as opening:
    lazily = open_tensors(ones)
with peak_memory() as touching:
    some = lazily["layer.0.weight"].sum()
with peak_memory() as finishing:
    total = sum(tensor.sum() for tensor in lazily.values())
for what, peak in {"opened": opening, "one tensor": touching, "all tensors": finishing}.items():
    print(f"{what:12} + {format_bytes(peak.growth_bytes)}")

# %% [markdown]
# ### Does it phone home?
#
# The article says that a model that you run yourself sends nothing to its maker. That can be counted. CPython reports
# every use of a socket before it happens, the refused ones too; `watch_sockets` writes the addresses down.

# %%
from helpers.measure.sockets import watch_sockets

with watch_sockets() as seen:
    again = family.from_pretrained(folder, dtype="auto").eval()
    pieces = AutoTokenizer.from_pretrained(folder)
    write(again, pieces(prompt, return_tensors="pt").input_ids, 4)
print(f"loading and writing: {len(seen.attempts)} attempts to reach another machine {seen.attempts}")

with watch_sockets() as control:
    try:
        torch.hub.download_url_to_file("http://127.0.0.1:9/weights", str(Path(room.name) / "none"), progress=False)
    except OSError as error:
        print(f"a download, from this machine itself: {error}")
print("the control saw:", control.loopback + control.attempts)

# %% [markdown]
# The control must not be empty: a watch that never sees anything would also report that nothing was sent. (One
# connection may count twice: the address is looked up, then called.) Weights cannot send, they are numbers; the
# program around them can, so the count must be taken with the code that you run.
#
# It matters how you ask. From a folder, transformers 5.23 opened nothing when this lesson was written. Asked for a
# **name** that is not in its cache, even with `local_files_only=True`, huggingface_hub 2.4.0 tries huggingface.co once,
# for a list that has nothing to do with your model; `HF_HUB_OFFLINE=1` stops that too (read and run on 23 November
# 2026).
#
# The watch sees Python's sockets. A library with sockets of its own in C needs a look from outside, such as a
# firewall's log: lesson [[school]].

# %% [markdown]
# ### Plan the giants
#
# A skeleton costs no memory, so the size of the model does not matter. `published(name)` holds the sizes from the
# model's own `config.json`; `plan` builds it on `meta` and counts. **Total** is what must be stored. **Active** is
# what one token passes: everything but the part that sees (the vision tower), the embedding's other rows, and the
# experts not chosen.

# %%
from helpers.facts import table as facts
from helpers.planning.plan import plan, published

rows = [row for row in facts("models") if "config" in row]
plans = {row["model"]: plan(published(row["config"])) for row in rows}


def counted(row: dict) -> str:
    p, stated = plans[row["model"]], row["total_billion"]
    total = (p.total if row["total_counts"] == "whole" else p.text) / 1e9
    active = p.active_without_embedding / 1e9
    text = f"{row['model']:18} {total:8.2f} {stated:7g} {total / stated - 1:+z6.1%}"
    return f"{text} {active:7.2f} {row.get('active_billion', '-'):>7} {p.text / 1e9 / active:13.1f}"


print("billions            counted  stated    off  active  stated  total/active")
print("\n".join(counted(row) for row in rows))

# %% [markdown]
# Every total that is stated to the billion is met within one percent. Kimi's "1T" is rounded to a whole trillion, and
# the sizes of its config give more. Small differences have names: heads that predict further tokens (lesson [[mtp]]),
# which transformers leaves out, vision towers, and makers who count the embedding or do not. (Sources and dates stand
# in `helpers/facts/models.toml`; all were looked up on 23 November 2026.)
#
# How near were your two guesses about GLM-5? And where are its parameters?

# %%
glm5 = plans["GLM-5"]
print("GLM-5 in bf16:")
check.reveal("open_a_model.glm5_gb", formula=744 * 2, machine=glm5.weight_bytes("bf16") / GB, unit="GB")
print("at work on one token:")
check.reveal("open_a_model.glm5_active", machine=glm5.active_without_embedding / 1e9, unit="billion")

# %%
share, chosen = 100 * glm5.parts["routed experts"] / glm5.total, f"{glm5.experts_per_token} of {glm5.experts}"
finding = f"In GLM-5 {share:.0f} % of the parameters are routed experts, and a token passes {chosen} in a layer"
show(draw.parameters_by_part({name: p.parts for name, p in plans.items()}, finding))

# %% [markdown]
# *Routed* experts are chosen anew for each token by a small matrix, the *router*; a *shared* expert works on every
# token. Lesson [[experts]] builds them.

# %% [markdown]
# ### Bytes
#
# A format is a number of bits per weight, with the scale that a group of weights shares: 4 bits and one 8-bit scale for
# 32 weights make 4.25. Kimi K2.5 is published with 4-bit experts and everything else in bf16. Its size on disk is
# stated, so the formula can be held to it.

# %%
kimi = plans["Kimi-K2.5"].weight_bytes("bf16", routed="int4 g32") / GB
on_disk = next(row["disk_gb"] for row in rows if row["model"] == "Kimi-K2.5")
print(f"Kimi K2.5: {kimi:.0f} GB by formula, {on_disk:.0f} GB published")

formats = ["bf16", "fp8 128x128", "fp4 1x32"]
weights = {name: {form: p.weight_bytes(form) for form in formats} for name, p in plans.items()}
fit = [name for name, sizes in weights.items() if sizes["fp4 1x32"] <= 96 * GB]
machines = {"24 GB": 24 * GB, "96 GB": 96 * GB, "1 TB": 1000 * GB}
finding = f"At 4.25 bits per weight {len(fit)} of {len(plans)} models fit 96 GB"
show(draw.weights_against_memory(weights, machines, finding))
for name, p in plans.items():
    if name not in fit:
        print(f"{name:18} would fit 96 GB at {96 * GB * 8 / p.total:.1f} bits per weight")

# %% [markdown]
# The article says that these models run on a strong workstation. With 96 GB the small Qwens do. The printed lines say
# how far the others would have to be squeezed; lesson [[gptq_awq]] measures what three bits already cost. For them the
# workstation is a server with several cards.
#
# ### The cache
#
# Weights are half of the story. For every token that it has read, a model keeps something in each layer: keys and
# values for some heads (GQA, lesson [[attention]]), or one short *latent* for all heads (MLA, lesson [[mla]]), or a
# *state* that never grows (Gated DeltaNet, lesson [[deltanet]]). The *index* and the *window* below belong to lessons
# [[dsa]] and [[what_came_next]].

# %%
lengths = [2**n for n in range(10, 21)]
chosen = ["Qwen3-0.6B", "Qwen3.5-35B-A3B", "Qwen3.5-397B-A17B", "DeepSeek-V3", "GLM-5", "DeepSeek-V4-Flash"]
caches = {name: [plans[name].cache_bytes(n) for n in lengths] for name in chosen}
times = plans["Qwen3-0.6B"].cache_bytes(200_000) / plans["DeepSeek-V4-Flash"].cache_bytes(200_000)
finding = f"At 200,000 tokens the smallest model keeps {times:.0f} times as much as DeepSeek-V4-Flash"
show(draw.cache_by_context(caches, lengths, finding))

# %%
print("200,000 tokens        cache  layers that keep")
for name, p in plans.items():
    kinds = ", ".join(f"{count} x {kind}" for kind, count in p.layers.items())
    print(f"{name:18} {p.cache_bytes(200_000) / GB:5.2f} GB  {kinds}")

# %% [markdown]
# The cache formulas are held by tests to the bytes that transformers really keeps, family by family, on small random
# models. The surprise: the lines of the smallest model and of GLM-5, more than a thousand times larger, lie on one
# another. The oldest idea (keys and values for 8 heads in each of 28 layers) makes the smallest model the hungriest.
# (Its maker publishes it for 40,960 tokens; the formula goes on.) The lessons from [[attention]] to [[what_came_next]]
# are about how the others got away from it.
#
# ### Two lines of the ledger
#
# Lesson [[claims]] left two claims of the article to this lesson. Here are your own numbers, and under them the verdict
# that stands in the ledger. Where they differ, the ledger is wrong for your machine or your versions, and that is worth
# a note.

# %%
from helpers.claims.ledger import claim

yours = {
    "nothing-sent-back": f"{len(seen.attempts)} attempts to reach another machine",
    "workstation": f"{len(fit)} of {len(plans)} models fit 96 GB at 4.25 bits per weight: {', '.join(fit)}",
}
for id, measured in yours.items():
    entry = claim(id)
    print(f"{entry.says}\n    you measured: {measured}\n    the ledger says: {entry.verdict}")
    print("       ", entry.verdicts[-1].because.replace("; ", ";\n        "))

# %% [markdown]
# ## Play
#
# 1. GLM-5 in bf16, 8 k tokens, 1,000 GB of memory. Lower the bits until it fits. Which step does it?
# 2. Qwen3-0.6B with 24 GB: raise the context to 200 k. What fills the machine, weights or cache?
# 3. Qwen3.5-35B-A3B at 4.25 bits in 24 GB: how far can the context grow? Compare with DeepSeek-V3 at the same context,
#    looking at the cache alone (the legend gives its size).

# %%
from helpers.planning.plan import BITS
from helpers.plots.widgets import Choice, Slider, explore


def machine(model, format, context, memory):
    p, tokens = plans[model], int(context * 1000)
    setting = f"{format}, {context:g} k tokens"
    return draw.memory_plan(model, p.weight_bytes(format), p.cache_bytes(tokens), memory * GB, setting)


explore(
    machine,
    model=Choice(list(plans), label="model", value="GLM-5"),
    format=Choice(list(BITS), label="format", value="bf16"),
    context=Slider(1, 1000, value=8, label="context (k tokens)", log=True),
    memory=Slider(8, 4096, value=1000, label="memory (GB)", log=True),
)

# %% [markdown]
# <details><summary>What to notice</summary>
#
# 1. One byte a weight does it: 744 GB and a cache of less than one. The cache of a short text is nothing beside 744
#    billion weights.
# 2. The cache: 23 GB against 1.2 GB of weights, and together they no longer fit.
# 3. To about 258 k tokens, near the 262,144 that the model is published for. Only 10 of its 40 layers keep anything
#    that grows, so its cache is less than a third of DeepSeek-V3's.
#
# </details>

# %% [markdown]
# ## Exercises
#
# ### 1. Warm-up: the cache of plain attention (4 minutes, difficulty 1)
#
# Write the bytes that grouped-query attention keeps in bf16 for a sequence. You get the number of layers, of query
# heads and of key/value heads, the width of a head, and the tokens.


# %% tags=["exercise:cache", "points:1"]
def cache_bytes(layers, query_heads, kv_heads, head_dim, tokens):
    # BEGIN SOLUTION
    keys_and_values = 2 * kv_heads * head_dim
    return layers * keys_and_values * tokens * 2
    # END SOLUTION


# %% tags=["check:cache"]
check.cache(cache_bytes)

# %% [markdown]
# ### 2. Core: parse a header (8 minutes, difficulty 2)
#
# Given the bytes of a whole safetensors file, return a dict: name -> (dtype, shape as a tuple, begin, end), where
# begin and end are places **in the file**.


# %% tags=["exercise:header", "points:2"]
def parse_header(content: bytes) -> dict:
    # BEGIN SOLUTION
    start = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:start])
    table.pop("__metadata__", None)
    return {
        name: (row["dtype"], tuple(row["shape"]), *(start + offset for offset in row["data_offsets"]))
        for name, row in table.items()
    }
    # END SOLUTION


# %% tags=["check:header"]
check.header(parse_header)

# %% [markdown]
# ### 3. Core: what works on one token? (8 minutes, difficulty 2)
#
# `parts` is a dict such as `plan.parts`: part -> parameters, with the names that you saw in the picture. `experts`
# routed experts share "routed experts" equally, and `experts_per_token` of them are chosen. Count the parameters that
# one text token passes; let the embedding count. Return a whole number.


# %% tags=["exercise:active", "points:2"]
def active_parameters(parts: dict, experts: int, experts_per_token: int) -> int:
    # BEGIN SOLUTION
    routed = parts.get("routed experts", 0)
    always = sum(parts.values()) - routed - parts.get("vision", 0)
    return always + routed * experts_per_token // experts
    # END SOLUTION


# %% tags=["check:active"]
check.active(active_parameters)

# %% [markdown]
# ### 4. Stretch: is the head the embedding? (7 minutes, difficulty 2)
#
# `tensors` maps names to tensors, as in a checkpoint. Tell whether the model is tied: no head is stored, or the stored
# head has the same numbers as the embedding. Prefixes differ between families, so look at how names end
# (`embed_tokens.weight`, `lm_head.weight`).


# %% tags=["exercise:tied", "points:2"]
def is_tied(tensors: dict) -> bool:
    # BEGIN SOLUTION
    heads = [tensor for name, tensor in tensors.items() if name.endswith("lm_head.weight")]
    embedding = next(tensor for name, tensor in tensors.items() if name.endswith("embed_tokens.weight"))
    return all(torch.equal(head, embedding) for head in heads)
    # END SOLUTION


# %% tags=["check:tied"]
check.tied(is_tied)

# %% [markdown]
# ### 5. Stretch: which models fit? (10 minutes, difficulty 3)
#
# `plans` maps names to plans. List the models whose weights in `format`, together with the cache of one sequence of
# `tokens`, fit `memory_bytes`. Then try it: which of the real models fit a card of 24 GB at 4.25 bits and 200,000
# tokens?


# %% tags=["exercise:fits", "points:3"]
def models_that_fit(plans: dict, memory_bytes: float, format: str, tokens: int) -> list:
    # BEGIN SOLUTION
    return [
        name for name, plan in plans.items() if plan.weight_bytes(format) + plan.cache_bytes(tokens) <= memory_bytes
    ]
    # END SOLUTION


# %% tags=["check:fits"]
check.fits(models_that_fit)

# %% [markdown]
# ### 6. In words: what do weights show? (6 minutes, difficulty 2)
#
# A colleague says: "The weights are public, so anybody can check what the model was trained on and that it hides
# nothing." Answer in three to five sentences. Use what you did today: what did the file tell you, and what did it not?

# %% [markdown] tags=["answer:weights"]
# *Your answer:*

# %% [markdown]
# <details><summary>What a good answer has in it</summary>
#
# It says what a file shows: architecture, sizes, precision, every number, whether parts are tied or missing, and that
# nothing in it is a program. It says what it does not: data, licence, intention; 744 billion numbers are readable and
# not legible. It separates two questions: whether the *file* is safe to open, which the reader settles, and whether
# the *model's behaviour* is safe, which only tests of behaviour approach. A trigger that nobody tries stays hidden
# (lesson [[trust]] plants one).
#
# </details>

# %% [markdown]
# ## Recap
#
# You can now say:
#
# 1. A model is three files: sizes, tokens, numbers. The numbers are one header in JSON and runs of bytes.
# 2. Opening is not reading. A map costs the header; the bytes come at first touch.
# 3. Names and shapes that fit prove nothing. Bit-equal tensors and equal logits do.
# 4. A safetensors file can lie about sizes, and is caught; a pickle is a program.
# 5. Memory follows the total, work follows the active part, and the cache follows the context.
#
# | idea | formula | cost |
# |---|---|---|
# | header | 8 + n bytes | independent of the weights |
# | bf16 | sign x (1 + f/128) x 2^(e-127) | 2 bytes |
# | group format | bits + scale bits / group | 4.25 bits for FP4 with 32 a group |
# | active | always + routed x k / E | GLM-5: 8 of 256 experts |
# | GQA cache | 2 x layers x G x K x tokens x 2 | grows with every token |
# | MLA cache | layers x (512 + 64) x tokens x 2 | grows with every token, for all heads together |
# | DeltaNet state | layers x heads x 128 x 128 x 4 | constant |

# %% [markdown]
# ## In the real models
#
# - **Qwen3.5-0.8B** ties its head; from 9B on the head is a matrix of its own. Its checkpoint holds `mtp.*` tensors,
#   which transformers leaves aside. Surprise: the flag for tying stands on two levels of the config, and where they
#   disagree the wrong class loads a random head with one line of warning.
# - **DeepSeek-V3** is published in FP8 with one scale for a block of 128 x 128. One of its matrices has 576 rows, four
#   and a half blocks, and transformers' unpacking for machines without FP8 stops there with an error.
# - **GLM-5** is published in bf16 and FP8. Its cache for 200,000 tokens would nearly fill a card of 24 GB alone.
# - **Kimi K2.5** has 4-bit experts and 16-bit attention: the part with most parameters has the fewest bits.
# - **DeepSeek-V4-Flash** keeps one entry for 4 or 128 tokens, and has the smallest cache of the table.
#
# Sizes: the models' own `config.json`, through `helpers/facts/configs` (source and date in each file). Loader
# behaviour: transformers 5.23, read and run on 23 November 2026.

# %% [markdown]
# ## Roads not taken
#
# - **GGUF** packs tokenizer, config and quantised weights into one file, for llama.cpp. Same idea, another header.
# - **Prediction heads** (MTP) are left out of all counts here; lesson [[mtp]] loads one by hand.
# - **Loading to a GPU** adds a copy over PCIe; a map helps only until the bus.
# - **Working memory** (activations, the logits of a long prompt) is missing from the planner. It is small for one
#   sequence and not for a thousand.
#
# To run all of this on a real model, set `checkpoint = "Qwen/Qwen3-0.6B"` or `"Qwen/Qwen3.5-0.8B"` in the second cell:
# 1.2 or 1.7 GB are downloaded once.
#
# **Next: [[tokenizer]].** You have used the tokenizer as a box; open it.
