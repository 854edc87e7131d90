"""Our reader against the safetensors library, and every refusal by its words."""

import io
import json
import os
import pickle
import re
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.checkpoints.error import CheckpointError
from helpers.checkpoints.header import DTYPES, MAX_HEADER_BYTES
from helpers.checkpoints.safetensors import open_tensors, read_header, read_tensor

PLAIN = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write(path, header, data=b""):
    """A file from a header (object or bytes) and the bytes behind it; nothing is checked."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def random_bits(dtype, shape):
    """Every bit pattern is possible, NaN and infinities too; a bool is 0 or 1."""
    bits = torch.randint(0, 2 if dtype is torch.bool else 256, (*shape, dtype.itemsize), dtype=torch.uint8)
    return bits.view(dtype).reshape(shape)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def assert_same(ours, theirs):
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert ours[name].shape == tensor.shape
        assert bits(ours[name]) == bits(tensor)


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        open_tensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    with pytest.raises(CheckpointError):
        read_header(path)
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (31,), (3, 5), (2, 1, 33), (0,), (4, 0, 2)], ids=str)
def test_every_type_and_shape_is_read_bit_for_bit_as_the_library_reads_it(tmp_path, name, shape):
    torch.manual_seed(0)
    shape = shape or (1,) if name == "F4" else shape  # the library writes no single number of half a byte
    first = torch.ones(1, dtype=torch.uint8)
    save_file({"first": first, "x": random_bits(DTYPES[name], shape)}, tmp_path / "a.safetensors")
    theirs, ours = load_file(tmp_path / "a.safetensors"), open_tensors(tmp_path / "a.safetensors")
    assert_same(ours, theirs)
    assert_same({name: read_tensor(tmp_path / "a.safetensors", name) for name in ours}, theirs)


def test_the_table_of_types_holds_all_that_the_library_gives_to_torch(tmp_path):
    unknown = refusal(write(tmp_path / "a.safetensors", {"x": {**PLAIN, "dtype": "F32 "}}))
    with pytest.raises(Exception, match="unknown variant") as caught:
        load_file(tmp_path / "a.safetensors")
    theirs = set(re.findall(r"`(\w+)`", str(caught.value).partition("expected one of")[2]))
    assert theirs - set(DTYPES) == {"F6_E2M3", "F6_E3M2"}
    assert set(DTYPES) < theirs
    assert all(name in unknown for name in DTYPES)


def test_a_file_without_tensors_is_a_checkpoint_without_tensors(tmp_path):
    save_file({}, tmp_path / "a.safetensors")
    assert dict(open_tensors(tmp_path / "a.safetensors")) == {}
    assert dict(open_tensors(write(tmp_path / "b.safetensors", b"{}"))) == {}


def test_the_header_says_what_stands_in_the_file(tmp_path):
    save_file({"x": torch.zeros(2, 3), "é\n": torch.zeros(4)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "a.safetensors")
    assert header.metadata == {"format": "pt"}
    assert header.file_bytes == (tmp_path / "a.safetensors").stat().st_size == header.data_start + 40
    assert header.entries["x"].shape == (2, 3)
    assert {entry.end - entry.begin for entry in header.entries.values()} == {24, 16}


def test_no_metadata_is_empty_metadata(tmp_path):
    assert read_header(write(tmp_path / "a.safetensors", {"x": PLAIN}, bytes(24))).metadata == {}


def test_spaces_after_the_header_are_padding(tmp_path):
    path = write(tmp_path / "a.safetensors", json.dumps({"x": PLAIN}).encode() + b" " * 7, bytes(24))
    assert open_tensors(path)["x"].shape == (2, 3)


@pytest.mark.parametrize("padding", range(8))
def test_numbers_at_an_odd_place_are_read_all_the_same(tmp_path, padding):
    text = json.dumps({"x": {"dtype": "F64", "shape": [5], "data_offsets": [0, 40]}}).encode() + b" " * padding
    path = write(tmp_path / "a.safetensors", text, torch.arange(5.0, dtype=torch.float64).numpy().tobytes())
    tensor = open_tensors(path)["x"]
    assert tensor.tolist() == [0, 1, 2, 3, 4]
    assert tensor.data_ptr() % 8 == 0


def test_a_tensor_may_be_written_to_and_the_file_stays(tmp_path):
    save_file({"x": torch.ones(5)}, tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    open_tensors(tmp_path / "a.safetensors")["x"].zero_()
    assert (tmp_path / "a.safetensors").read_bytes() == before
    assert read_tensor(tmp_path / "a.safetensors", "x").tolist() == [1] * 5


def test_two_looks_at_a_tensor_share_the_map_and_nothing_is_copied(tmp_path):
    save_file({"x": torch.ones(5)}, tmp_path / "a.safetensors")
    tensors = open_tensors(tmp_path / "a.safetensors")
    assert tensors["x"].data_ptr() == tensors["x"].data_ptr()
    assert read_tensor(tmp_path / "a.safetensors", "x").data_ptr() != tensors["x"].data_ptr()


def test_a_tensor_outlives_the_mapping_it_came_from(tmp_path):
    save_file({"x": torch.ones(5)}, tmp_path / "a.safetensors")
    assert open_tensors(tmp_path / "a.safetensors")["x"].sum() == 5


def test_a_name_that_is_not_there_is_answered_with_names_that_are(tmp_path):
    save_file({"x": torch.ones(5)}, tmp_path / "a.safetensors")
    for look in (
        open_tensors(tmp_path / "a.safetensors").__getitem__,
        lambda n: read_tensor(tmp_path / "a.safetensors", n),
    ):
        with pytest.raises(KeyError, match=r"holds no tensor 'y'; it holds 1, such as 'x'"):
            look("y")
    assert "y" not in open_tensors(tmp_path / "a.safetensors")


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path):
    save_file({"x": torch.ones(5)}, tmp_path / "a.safetensors")
    header = read_header(tmp_path / "a.safetensors")
    os.truncate(tmp_path / "a.safetensors", header.file_bytes - 1)
    with pytest.raises(CheckpointError, match="became shorter while tensor 'x' was read"):
        read_tensor(tmp_path / "a.safetensors", "x", header)


def entry(**changes):
    return {"x": {**PLAIN, **changes}}


def without(field):
    return {"x": {name: value for name, value in PLAIN.items() if name != field}}


F = {"dtype": "U8", "shape": [4]}
COUNT = "whole numbers from 0 to 2**63 - 1"
REFUSED_HEADERS = {
    "no JSON": (b'{"x": }', "its header is not JSON (Expecting value: line 1 column 7"),
    "nothing": (b"", "its header does not begin with '{' but with b''"),
    "a list": (b"[]", "its header does not begin with '{' but with b'[]'"),
    "a space first": (b" {}", "its header does not begin with '{' but with b' {}'"),
    "zeros after it": (b"{}\0\0", "its header is not JSON (Extra data"),
    "not UTF-8": (b'{"\xff": 1}', "its header is not UTF-8 text (byte 2)"),
    "half a character": (b'{"\\ud800": 1}', "its header holds half a character"),
    "a name twice": (b'{"x": 1, "x": 2}', "its header has the name 'x' twice"),
    "a field twice": (b'{"x": {"dtype": "U8", "dtype": "F32"}}', "its header has the name 'dtype' twice"),
    "nested deeply": (b'{"x": ' + b"[" * 100_000, "its header is nested too deeply"),
    "an entry is a number": (
        {"x": 3},
        "tensor 'x' is described by 3, not by an object with dtype",
    ),
    "no dtype": (without("dtype"), "tensor 'x' has no dtype"),
    "no shape": (without("shape"), "tensor 'x' has no shape"),
    "no offsets": (without("data_offsets"), "tensor 'x' has no data_offsets"),
    "no field": ({"x": {}}, "tensor 'x' has no dtype and no shape and no data_offsets"),
    "one field more": (entry(stride=[3, 1]), "tensor 'x' has the unknown field 'stride'"),
    "unknown dtype": (
        entry(dtype="F12"),
        "tensor 'x' has the unknown dtype 'F12'; known are F64, F32, F16",
    ),
    "six bits": (entry(dtype="F6_E2M3"), "tensor 'x' has the unknown dtype 'F6_E2M3'; known are"),
    "dtype no text": (entry(dtype=["F32"]), "tensor 'x' has the unknown dtype ['F32']; known are"),
    "negative size": (
        entry(shape=[-2, -3]),
        f"tensor 'x' has the shape [-2, -3], not a list of {COUNT}",
    ),
    "size a fraction": (entry(shape=[2.0, 3]), "tensor 'x' has the shape [2.0, 3], not a list"),
    "size true": (entry(shape=[True, 6]), "tensor 'x' has the shape [True, 6], not a list"),
    "size minus zero": (b'{"x": {"dtype": "U8", "shape": [-0], "data_offsets": [0, 0]}}', "has the shape [-0.0], not"),
    "size beyond 64 bits": (entry(shape=[2**63]), "tensor 'x' has the shape [9223372036854775808], not a list"),
    "size of 5000 digits": (
        b'{"x": {"dtype": "U8", "shape": [' + b"9" * 5000 + b"]" + b', "data_offsets": [0, 0]}}',
        "[inf]",
    ),
    "shape no list": (entry(shape=6), "tensor 'x' has the shape 6, not a list"),
    "shape overflows": (
        entry(shape=[2**32, 2**32]),
        "more numbers than 64 bits can count",
    ),
    "zero hides overflow": (entry(shape=[2**32, 2**32, 0], data_offsets=[0, 0]), "more numbers than 64 bits can count"),
    "offsets negative": (entry(data_offsets=[-24, 0]), "tensor 'x' has the data_offsets [-24, 0], not a pair of whole"),
    "three offsets": (entry(data_offsets=[0, 12, 24]), "tensor 'x' has the data_offsets [0, 12, 24], not a pair"),
    "offset a text": (entry(data_offsets=[0, "24"]), "tensor 'x' has the data_offsets [0, '24'], not a pair"),
    "offsets reversed": (entry(data_offsets=[24, 0]), "tensor 'x' ends at byte 0, before it begins at 24"),
    "too few bytes": (entry(data_offsets=[0, 20]), "takes 24 bytes as F32 of shape [2, 3], and data_offsets give 20"),
    "wrong type": (entry(dtype="F64"), "takes 48 bytes as F64 of shape [2, 3], and data_offsets give 24"),
    "half a byte": (
        entry(dtype="F4", shape=[16, 3]),
        "is F4, two numbers per byte, and its shape [16, 3] does not end",
    ),
    "out of the file": (
        entry(shape=[2, 4], data_offsets=[0, 32]),
        "is truncated: tensor 'x' (bytes 0 to 32",
    ),
    "far out": (entry(data_offsets=[2**62, 2**62 + 24]), "is not all there, the file holds 24"),
    "leftover": (entry(shape=[2], data_offsets=[0, 8]), "has 16 bytes after the last tensor that belong to none"),
    "nothing but leftover": ({}, "has 24 bytes after the last tensor that belong to none"),
    "a hole first": (
        entry(shape=[2], data_offsets=[16, 24]),
        "bytes 0 to 16 of the data, before tensor 'x'",
    ),
    "a hole between": (
        {"a": {**F, "data_offsets": [0, 4]}, "b": {**F, "data_offsets": [20, 24]}},
        "bytes 4 to 20 of the data, before tensor 'b' (bytes 20 to 24 of the data), belong to none",
    ),
    "overlapping": (
        {"a": {**F, "data_offsets": [0, 4]}, "b": {**F, "data_offsets": [2, 6]}},
        "tensor 'b' (bytes 2 to 6 of the data) overlaps the one before it, which ends at 4",
    ),
    "twice the same bytes": (
        {"a": {**F, "data_offsets": [0, 4]}, "b": {**F, "data_offsets": [0, 4]}},
        "tensor 'b' (bytes 0 to 4 of the data) overlaps the one before it, which ends at 4",
    ),
    "metadata no object": ({"__metadata__": [1], "x": PLAIN}, "its __metadata__ is [1], not an object of texts"),
    "metadata of numbers": (
        {"__metadata__": {"a": 1}, "x": PLAIN},
        "its __metadata__ is {'a': 1}, not an object",
    ),
    "metadata a number": ({"__metadata__": 0, "x": PLAIN}, "its __metadata__ is 0, not an object of texts"),
    "a name of two lines": ({"a\nb": 3}, r"tensor 'a\nb' is described by 3"),
}


@pytest.mark.parametrize(("header", "words"), REFUSED_HEADERS.values(), ids=REFUSED_HEADERS)
def test_a_wrong_header_is_refused_by_its_reason(tmp_path, header, words):
    assert words in refusal(write(tmp_path / "a.safetensors", header, bytes(24)))


def raw(text):
    return text.replace("PLAIN", json.dumps(PLAIN)).encode()


EIGHT = '{"dtype": "U8", "shape": [%d], "data_offsets": [%d, %d]}'
ZERO = '{"dtype": "F32", "shape": [%s], "data_offsets": [0, 0]}'
# Headers that are unusual, and what we say where we are stricter than the library, because another reader would see
# another checkpoint in the same file. None: we read it as the library does.
VARIANTS = {
    "spaces behind": (raw('{"x": PLAIN}   '), None),
    "all white space behind": (raw('{"x": PLAIN} \t\r\n'), None),
    "on several lines": (json.dumps({"x": PLAIN}, indent=3).encode(), None),
    "no metadata": (raw('{"__metadata__": {}, "x": PLAIN}'), None),
    "metadata null": (raw('{"__metadata__": null, "x": PLAIN}'), None),
    "metadata last": (raw('{"x": PLAIN, "__metadata__": {"format": "pt", "": ""}}'), None),
    "names of other tools": (raw('{"module.x._extra_state": PLAIN}'), None),
    "a name without letters": (raw('{"": PLAIN}'), None),
    "a name in Russian": (raw('{"ключ": PLAIN}'), None),
    "the same, escaped": (json.dumps({"ключ\u2028": PLAIN}).encode(), None),
    "an emoji in two halves": (raw('{"\\ud83d\\ude00": PLAIN}'), None),
    "an escaped line and zero": (raw('{"a\\nb\\u0000": PLAIN}'), None),
    "an escaped stroke": (raw('{"a\\/b": PLAIN}'), None),
    "any order of fields": (b'{"x": {"data_offsets": [0, 24], "shape": [2, 3], "dtype": "F32"}}', None),
    "any order of tensors": (raw(f'{{"b": {EIGHT % (20, 4, 24)}, "a": {EIGHT % (4, 0, 4)}}}'), None),
    "an odd place": (raw(f'{{"a": {EIGHT % (3, 21, 24)}, "x": {EIGHT % (1, 0, 1)}, "f": '
                         '{"dtype": "F32", "shape": [5], "data_offsets": [1, 21]}}'), None),
    "a single number": (raw(f'{{"b": {EIGHT % (20, 4, 24)}, "a": '
                            '{"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}'), None),
    "nothing at the start": (raw(f'{{"n": {ZERO % "0, 4"}, "x": PLAIN}}'), None),
    "nothing at the end": (raw(f'{{"n": {EIGHT % (0, 24, 24)}, "x": PLAIN}}'), None),
    "nothing, of a large width": (raw(f'{{"n": {ZERO % f"{2**63 - 1}, 0"}, "x": PLAIN}}'), None),
    "many axes": (json.dumps({"x": {**PLAIN, "shape": [1] * 60 + [6]}}).encode(), None),
    "a space first": (raw(' {"x": PLAIN}'), "does not begin with '{'"),
    "a name twice": (raw('{"x": PLAIN, "x": PLAIN}'), "has the name 'x' twice"),
    "a note twice": (raw('{"__metadata__": {"a": "1", "a": "2"}, "x": PLAIN}'), "has the name 'a' twice"),
    "one field more": (json.dumps({"x": {**PLAIN, "stride": [3, 1]}}).encode(), "has the unknown field 'stride'"),
    "fields without names": (b'{"x": ["F32", [2, 3], [0, 24]]}', "is described by ['F32', [2, 3], [0, 24]], not by"),
    "a type that is an object": (json.dumps({"x": {**PLAIN, "dtype": {"F32": None}}}).encode(), "the unknown dtype"),
    "zero, then too much": (raw(f'{{"n": {ZERO % "0, 4294967296, 4294967296"}, "x": PLAIN}}'), "64 bits can count"),
}  # fmt: skip


@pytest.mark.parametrize(("header", "words"), VARIANTS.values(), ids=VARIANTS)
def test_what_the_library_takes_we_take_alike_or_say_why_not(tmp_path, header, words):
    path = write(tmp_path / "a.safetensors", header, bytes(range(1, 25)))
    if words:
        assert words in refusal(path)
    else:
        theirs = load_file(path)
        assert_same(open_tensors(path), theirs)
        assert_same({name: read_tensor(path, name) for name in theirs}, theirs)


@pytest.mark.parametrize("header", ["{}", "{}      ", '{"__metadata__": null}', '{"__metadata__": {"format": "pt"}}'])
def test_a_file_without_tensors_may_say_so_in_every_way(tmp_path, header):
    path = write(tmp_path / "a.safetensors", header.encode())
    assert dict(open_tensors(path)) == load_file(path) == {}


def test_the_wrong_headers_are_wrong_and_the_plain_one_is_right(tmp_path):
    assert open_tensors(write(tmp_path / "a.safetensors", {"x": PLAIN}, bytes(24)))["x"].sum() == 0


def test_a_refusal_stays_short_whatever_the_file_says(tmp_path):
    endless = [
        {"n" * 10**6: 3},
        {"x": {f"field{n}": 0 for n in range(10**4)}},
        {"x": {**PLAIN, **{f"field{n}": 0 for n in range(10**4)}}},
        entry(shape=[1] * 10**4, dtype="U8"),
        entry(shape=[2**62] * 10**4, dtype="U8"),
        entry(dtype="F" * 10**5),
        b'{"' + b"n" * 10**5 + b'":1,"' + b"n" * 10**5 + b'":1}',
    ]
    for header in endless:
        assert len(refusal(write(tmp_path / "a.safetensors", header))) < 350


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    save_file({"x": torch.ones(2, 3), "y": torch.ones(4)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "a.safetensors"
    for end in range(1, len(whole)):
        path.write_bytes(whole[:end])
        assert "truncated" in refusal(path)


def test_a_header_that_is_longer_than_the_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes((1000).to_bytes(8, "little") + b"{}")
    assert refusal(path) == "is truncated: the header takes 1000 bytes, and 2 are left in the file"


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_header_beyond_the_limit_is_refused_before_it_is_read(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    assert f"ask for a header of {length} bytes, and 100000000 are allowed" in refusal(path)


def test_what_is_no_file_is_refused_as_what_it_is(tmp_path):
    (tmp_path / "empty").touch()
    assert refusal(tmp_path / "empty") == "is empty"
    assert refusal(tmp_path) == "is a folder, where a safetensors file is asked for"
    assert refusal(tmp_path / "none") == "there is no such file"
    assert "cannot be opened" in refusal(tmp_path / ("n" * 300))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == "is not a regular file"


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    return buffer.getvalue()


def saved_by_torch(**how):
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(3)}, buffer, **how)
    return buffer.getvalue()


PICKLE = "it is a PyTorch pickle; pickle is never opened"
FOREIGN = {
    "zip": (zipped(), "it is a PyTorch pickle; pickle is never opened"),
    "torch": (saved_by_torch(), "it is a PyTorch pickle; pickle is never opened"),
    "old torch": (
        saved_by_torch(_use_new_zipfile_serialization=False),
        "it is a PyTorch pickle; pickle is never opened",
    ),
    **{f"pickle {n}": (pickle.dumps({"x": list(range(99))}, n), "it is a PyTorch pickle") for n in (2, 3, 4, 5)},
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "it is a Git LFS pointer"),
    "GGUF": (b"GGUF\x03\0\0\0\x01\0\0\0", "it is a GGUF file"),
    "web page": (b"<!DOCTYPE html><html></html>", "it is a web page"),
}


@pytest.mark.parametrize(("content", "words"), FOREIGN.values(), ids=FOREIGN)
def test_another_kind_of_file_is_refused_as_what_it_is(tmp_path, content, words):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert f"is no safetensors file: {words}" in refusal(tmp_path / "a.safetensors")


def test_a_truncated_file_whose_length_looks_like_a_pickle_is_called_truncated(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x80\x02" + bytes(6) + b"{")  # a header of 640 bytes
    assert "is truncated: the header takes 640 bytes" in refusal(path)
