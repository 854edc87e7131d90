"""Damaged files, made from sound ones by a seed: each is read exactly as the library reads it, or refused in one line.

800 files in every run, 20,000 when COURSE_NIGHTLY=1. A failure names the seed; ``mutant(seed)`` makes the file again.
"""

import copy
import json
import os
import random
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file, save

from helpers.checkpoints import folder as folders
from helpers.checkpoints.error import CheckpointError
from helpers.checkpoints.header import DTYPES
from helpers.checkpoints.safetensors import open_tensors, read_tensor

FILES_A_BATCH = 100
BATCHES = range(200 if os.environ.get("COURSE_NIGHTLY") == "1" else 8)

ODD_COUNTS = [-1, 0, 1, 7, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30]
ODD_VALUES = [None, True, False, 1.0, -0.0, 1e300, "", "1", [], [1], {}, {"a": 1}]
ODD_NAMES = ["", "__metadata__", "a\nb", "\u2028", "../x", "x" * 5000, "\ud800", "weight", "\0"]
ODD_LENGTHS = [0, 1, 7, 8, 99_999_999, 100_000_000, 100_000_001, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


def sound_files():
    torch.manual_seed(0)
    several = {
        "weight": torch.randn(3, 5),
        "half": torch.randn(2, 7).half(),
        "brain": torch.randn(4).bfloat16(),
        "ids": torch.arange(6).reshape(2, 3),
        "mask": torch.tensor([True, False, True]),
        "eight": torch.randn(9).to(torch.float8_e4m3fn),
    }
    edges = {
        "scalar": torch.tensor(3.0),
        "none": torch.empty(0, 4),
        "nothing": torch.empty(0),
        "one": torch.ones(1, 1, 1),
    }
    return [save(several, {"format": "pt", "note": "é"}), save({"weight": torch.randn(8, 8)}), save(edges), save({})]


SOUND = sound_files()


def parts(content):
    """The header as an object, and the bytes behind it."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def joined(header, data, dice):
    spaced = {"separators": dice.choice([(",", ":"), (", ", ": ")]), "ensure_ascii": dice.random() < 0.5}
    text = (header if isinstance(header, str) else json.dumps(header, **spaced)).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + data


def flip_bits(content, dice):
    """In the header or the length, one to four bits."""
    damaged = bytearray(content)
    end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        damaged[dice.randrange(dice.choice([8, end]))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def change_a_character(content, dice):
    header, data = parts(content)
    text = json.dumps(header)
    place, width = dice.randrange(len(text)), dice.choice([0, 1, 1, 3])
    return joined(text[:place] + dice.choice('0123456789-+.eE"{}[]:, \\un\t\0é') + text[place + width :], data, dice)


def cut(content, dice):
    """At any byte, with more weight on the places where one part ends and the next begins."""
    header, _ = parts(content)
    start = 8 + int.from_bytes(content[:8], "little")
    ends = [start + fields["data_offsets"][1] for name, fields in header.items() if name != "__metadata__"]
    place = dice.choice([0, 1, 7, 8, 9, start, *ends, dice.randrange(len(content))]) + dice.choice([-1, 0, 0, 1])
    return content[: max(place, 0)]


def append(content, dice):
    return content + dice.randbytes(dice.choice([1, 2, 8, 64]))


def change_the_length(content, dice):
    length = int.from_bytes(content[:8], "little")
    odd = dice.choice([*ODD_LENGTHS, length + 1, length - 1, length + 8, length - 8, len(content), len(content) - 8])
    return max(odd, 0).to_bytes(8, "little") + content[8:]


def change_the_header(content, dice):
    """One to three wrong counts, types, names, fields or entries, in a header that is still JSON."""
    header, data = parts(content)
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        dice.choice([wrong_count, wrong_field, wrong_dtype, wrong_name, wrong_table])(header, dice)
    return joined(header, data, dice)


def entries(header):
    return [fields for name, fields in header.items() if name != "__metadata__" and isinstance(fields, dict)]


def wrong_count(header, dice):
    lists = [fields[name] for fields in entries(header) for name in ("shape", "data_offsets") if name in fields]
    if counts := [counts for counts in lists if isinstance(counts, list) and counts]:
        counts = dice.choice(counts)
        place = dice.randrange(len(counts))
        near = [counts[place] + step for step in (-1, 1, 4, -4, 8)] if isinstance(counts[place], int) else []
        counts[place] = dice.choice([*near, *near, *ODD_COUNTS, *ODD_VALUES])
        dice.choice([lambda: None, lambda: None, counts.reverse, counts.pop, lambda: counts.append(1)])()


def wrong_field(header, dice):
    if found := entries(header):
        fields, name = dice.choice(found), dice.choice(["dtype", "shape", "data_offsets", "strides"])
        fields[name] = dice.choice([*ODD_VALUES, *ODD_COUNTS])
        if dice.random() < 0.3:
            del fields[name]


def wrong_dtype(header, dice):
    if found := entries(header):
        dice.choice(found)["dtype"] = dice.choice([*DTYPES, *DTYPES, "f32", "F6_E2M3", "F128", "", None, 3])


def wrong_name(header, dice):
    if header:
        name = dice.choice(list(header))
        header[dice.choice(ODD_NAMES)] = header.pop(name)


def wrong_table(header, dice):
    """An entry gone, doubled, swapped with another, or the metadata spoiled."""
    names = [name for name in header if name != "__metadata__"]
    one, other = (dice.choice(names), dice.choice(names)) if names else (None, None)
    kind = dice.randrange(5)
    if kind == 0 and names:
        del header[one]
    elif kind == 1 and names:
        header["another"] = copy.deepcopy(header[one])
    elif kind == 2 and names:
        header[one], header[other] = header[other], header[one]
    elif kind == 3 and names:
        header[one] = dice.choice(ODD_VALUES)
    else:
        header["__metadata__"] = dice.choice([*ODD_VALUES, {"a": "b"}, {"a": "\ud800"}])


def write_a_name_twice(content, dice):
    header, data = parts(content)
    text = json.dumps(header)
    return joined(text[:-1] + f"{', ' if header else ''}{json.dumps(dice.choice([*header, 'z']))}: {{}}}}", data, dice)


def rewrite(content, dice):
    """Nothing wrong: entries in another order, other spaces, padding. Most of these must be read."""
    header, data = parts(content)
    names = list(header)
    dice.shuffle(names)
    text = json.dumps({name: header[name] for name in names}, indent=dice.choice([None, 1]))
    return joined(text + dice.choice(["", " ", "\n\t ", " " * 64]), data, dice)


MUTATIONS = [flip_bits, change_a_character, cut, append, change_the_length, change_the_header, change_the_header]
MUTATIONS += [change_the_header, write_a_name_twice, rewrite]


def mutant(seed):
    dice = random.Random(seed)
    return dice.choice(MUTATIONS)(dice.choice(SOUND[:2] * 3 + SOUND[2:]), dice)


def read_by_the_library(path):
    try:
        return load_file(path)
    except Exception:
        return None


def read_by_us(path):
    """The tensors, or None after a refusal."""
    try:
        tensors = open_tensors(path)
    except CheckpointError as error:
        return assert_one_line(str(error), path)
    data_bytes = path.stat().st_size - tensors.header.data_start
    assert all(0 <= entry.begin <= entry.end <= data_bytes for entry in tensors.header.entries.values())
    return dict(tensors)


def listed_or_refused(folder):
    """The names in a folder's files, or None after a refusal."""
    try:
        return set(folders.weight_files(folder))
    except CheckpointError as error:
        return assert_one_line(str(error), folder)


def assert_one_line(message, path):
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message) < len(str(path)) + 1000


def same_bits(one, other):
    one, other = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(one, other)


def assert_read_alike(path):
    """What the library refuses is refused, and what is read here has the library's bits."""
    ours, theirs = read_by_us(path), read_by_the_library(path)
    if ours is None:
        return False
    assert theirs is not None, "the library refuses this file"
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape)
        assert same_bits(ours[name], tensor)
        assert same_bits(read_tensor(path, name), tensor)
    return True


@pytest.mark.parametrize("batch", BATCHES)
def test_a_damaged_file_is_read_as_the_library_reads_it_or_refused_in_one_line(tmp_path, batch):
    read = []
    for seed in range(batch * FILES_A_BATCH, (batch + 1) * FILES_A_BATCH):
        path = tmp_path / f"{seed}.safetensors"
        path.write_bytes(mutant(seed))
        read.append(assert_read_alike(path))
    assert FILES_A_BATCH * 0.05 < sum(read) < FILES_A_BATCH * 0.5  # both ways are really taken


def test_a_damaged_file_asks_for_no_more_memory_than_it_is_long(tmp_path):
    path = tmp_path / "a.safetensors"
    tracemalloc.start()
    try:
        for seed in range(200):
            path.write_bytes(mutant(10**6 + seed))
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            read_by_us(path)
            assert tracemalloc.get_traced_memory()[1] - before < 200_000 + 20 * path.stat().st_size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("batch", BATCHES)
def test_a_damaged_index_is_used_as_it_was_or_refused_in_one_line(tmp_path, batch):
    """The index of two shards: every answer is the sound one."""
    (tmp_path / "a.safetensors").write_bytes(save({"x": torch.ones(2), "y": torch.zeros(3)}))
    (tmp_path / "b.safetensors").write_bytes(save({"z": torch.ones(4)}))
    sound = {
        "metadata": {"total_size": 36},
        "weight_map": {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"},
    }
    for seed in range(batch * 25, (batch + 1) * 25):
        (tmp_path / folders.INDEX).write_bytes(damaged_index(json.dumps(sound), random.Random(seed)))
        assert listed_or_refused(tmp_path) in (None, {"x", "y", "z"})


def damaged_index(text, dice):
    if dice.random() < 0.5:
        odd = [
            "../a.safetensors",
            "/a.safetensors",
            "\\u0000.safetensors",
            "n" * 5000 + ".safetensors",
            ".",
            "",
            "a.bin",
        ]
        return text.replace(
            dice.choice(["a.safetensors", "b.safetensors", "x", "weight_map"]), dice.choice(odd)
        ).encode()
    damaged = bytearray(text.encode())
    for _ in range(dice.choice([1, 2])):
        damaged[dice.randrange(len(damaged))] = dice.randrange(256)
    return bytes(damaged[: dice.choice([len(damaged), len(damaged), dice.randrange(len(damaged))])])
