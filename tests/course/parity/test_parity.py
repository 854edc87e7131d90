"""The command that compares every family with transformers: it sees what is wrong, and writes what it saw."""

import json
from collections.abc import Callable

import pytest
import torch

from course.cli import COMMANDS
from course.parity import compare as parity
from course.parity import runs
from course.parity.compare import ALLOWED, DTYPES, Line, ParityRecord, read_parity, table, worst, write_parity
from course.parity.configs import CONFIGS
from course.parity.runs import CACHES, DRAFT, IMAGES, PADDINGS, PICTURE, TEXT, prompts, side_by_side, tasks
from helpers.checkpoints.families import FAMILIES
from helpers.compare import max_error
from helpers.measure.records import FOLDER

CPU = torch.device("cpu")
EVERY_WAY = [(dtype, cache, padding) for dtype in DTYPES for cache in CACHES for padding in PADDINGS]
GOOD = Line("qwen3", TEXT, "float32", "none", "left", 1e-6, 1e-7, 1e-9, 1.0, 0.8, 0.0)
ROUGH = Line("qwen3", TEXT, "bfloat16", "none", "left", 0.3, 0.04, 1e-9, 1.0, 0.8, 0.03)


def test_qwen3_is_compared_every_way_and_passes():
    lines = list(parity.parity("qwen3", CPU))
    assert [(line.dtype, line.cache, line.padding) for line in lines] == EVERY_WAY
    for line in lines:
        assert line.passes
        assert line.task == TEXT
        assert line.rms_error <= line.max_error
        assert line.logit_rms > 0.3  # an error of 1e-4 is small beside it
        assert (line.rounding > 1e-3) == (line.dtype == "bfloat16")


def break_ours(monkeypatch: pytest.MonkeyPatch, change: Callable) -> None:
    """Whenever our model is loaded, ``change`` is done to it."""
    right = parity.load

    def load_and_break(folder, dtype, device):
        model = right(folder, dtype, device)
        change(model)
        return model

    monkeypatch.setattr(parity, "load", load_and_break)


def test_a_broken_model_is_caught_in_both_dtypes_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    break_ours(monkeypatch, lambda model: model.blocks[2].attention.key_norm.weight.data.fill_(1.0))
    monkeypatch.setattr(parity, "FAMILIES", {"qwen3": FAMILIES["qwen3"]})
    assert parity.main(["--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("more than 0.0001") == printed.count("more than 1.41 times the rounding") == len(CACHES)
    assert not list(tmp_path.iterdir())


MISTAKES = {
    "deepseek_v3": (DRAFT, lambda model: model.drafters["3"].hidden_norm.weight.data.fill_(0.0)),
    "kimi_k25": (IMAGES, lambda model: model.projector.down.weight.data.neg_()),
}


@pytest.mark.parametrize("family", MISTAKES)
def test_a_wrong_eye_or_drafter_is_caught_where_it_is_used_and_nowhere_else(family, monkeypatch):
    task, change = MISTAKES[family]
    break_ours(monkeypatch, change)
    failing = {(line.task, line.dtype) for line in parity.parity(family, CPU) if not line.passes}
    assert failing == {(task, "float32"), (task, "bfloat16")}


def test_a_cache_that_forgets_is_caught_where_there_is_a_cache(monkeypatch):
    right = runs.call

    def forgetful(model, columns, mask, pictures, task, memory=None, drafts=None):
        return right(model, columns, mask, pictures, task)

    monkeypatch.setattr(runs, "call", forgetful)
    wrong = {(line.cache, line.passes) for line in parity.parity("qwen3", CPU)}
    assert wrong == {("none", True), ("one prefill", True), ("split", False)}


def test_the_whole_is_recorded_with_the_machine_and_the_versions(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(parity, "FAMILIES", {"qwen3": FAMILIES["qwen3"]})
    assert parity.main(["--out", str(tmp_path)]) == 0
    path = tmp_path / "cpu" / "parity.json"
    record = read_parity(path)
    assert len(record.lines) == len(EVERY_WAY)
    assert {"device", "name", "torch", "python", "transformers"} <= set(record.machine)
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert set(raw) == {"name", "machine", "lines", "date", "format"}
    assert "qwen3             text   float32   split" in capsys.readouterr().out


def test_one_family_alone_does_not_replace_the_record(tmp_path, capsys):
    assert parity.main(["qwen3", "--out", str(tmp_path)]) == 0
    assert not list(tmp_path.iterdir())


def test_a_family_that_is_not_there_is_one_clear_line(tmp_path, monkeypatch, capsys):
    assert parity.main(["qwen9"]) == 2
    assert capsys.readouterr().err.startswith("course parity: family 'qwen9' is unknown: use qwen3")
    monkeypatch.setattr(parity, "FAMILIES", {"new": None})
    assert parity.main([]) == 2
    assert "no tiny model of new" in capsys.readouterr().err


def test_every_family_that_is_loaded_has_a_tiny_model():
    assert set(FAMILIES) <= set(CONFIGS)
    assert COMMANDS["parity"] == "course.parity.compare"


@pytest.mark.parametrize(
    ("family", "size"),
    [
        ("deepseek_v32", "index_topk"),
        ("glm_moe_dsa", "index_topk"),
        ("deepseek_v4", "index_topk"),
        ("deepseek_v4", "sliding_window"),
        ("deepseek_v3", "num_experts_per_tok"),
    ],
)
def test_texts_are_long_enough_for_sparsity_to_matter(family, size, tmp_path, monkeypatch):
    given = prompts(family, TEXT)._replace(rows=prompts(family, TEXT).rows[:1])
    found = []
    for value in (CONFIGS[family].sizes[size], 2 * CONFIGS[family].sizes[size]):
        tiny = CONFIGS[family]._replace(sizes={**CONFIGS[family].sizes, size: value})
        monkeypatch.setitem(runs.CONFIGS, family, tiny)
        runs.save_random(family, tmp_path)
        with torch.no_grad():
            found += runs.reference(family, tmp_path, TEXT, torch.float32, CPU, given)
    assert max_error(*found) > 1000 * ALLOWED


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 2e-4])
def test_only_small_finite_errors_pass_in_float32(wrong):
    assert GOOD.passes
    assert not Line(**{**vars(GOOD), "max_error": wrong}).passes


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.0425])
def test_in_bfloat16_the_mean_error_is_at_most_that_of_two_independent_ones(wrong):
    assert ROUGH.passes
    assert Line(**{**vars(ROUGH), "rms_error": 0.0424}).passes
    assert not Line(**{**vars(ROUGH), "rms_error": wrong}).passes


def test_the_committed_record_has_every_family_and_all_pass():
    record = read_parity(FOLDER / "cpu" / "parity.json")
    assert {(line.family, line.task) for line in record.lines} == {(f, task) for f in FAMILIES for task in tasks(f)}
    assert len(record.lines) == len(EVERY_WAY) * sum(len(tasks(family)) for family in FAMILIES)
    assert all(line.passes for line in record.lines)


def test_the_record_of_another_machine_stays(tmp_path):
    first, second = ({"device": "cpu", "name": name, "cores": 2} for name in ("One CPU", "Another CPU"))
    path = write_parity(ParityRecord(first, [GOOD]), tmp_path)
    beside = write_parity(ParityRecord(second, [ROUGH]), tmp_path)
    assert beside.parent.name == "cpu-another-cpu-2-cores"
    assert read_parity(path).machine == first


def test_a_folder_that_cannot_be_written_is_one_line_before_anything_is_compared(tmp_path, capsys):
    (tmp_path / "a file").write_text("")
    assert parity.main(["--out", str(tmp_path / "a file")]) == 1
    assert capsys.readouterr() == ("", f"course parity: cannot write {tmp_path / 'a file'}: Not a directory\n")


def test_a_record_that_is_not_one_is_named(tmp_path):
    path = write_parity(ParityRecord({"device": "cpu"}, [GOOD]), tmp_path)
    assert read_parity(path).lines == [GOOD]
    path.write_text(path.read_text().replace("top1", "top_one"))
    with pytest.raises(ValueError, match=r"parity.json is not a readable record of parity: .*top_one"):
        read_parity(path)


def test_padding_stands_where_it_should():
    rows = [torch.tensor([[5, 6, 7], [6, 7, 8], [0, 1, 0]]), torch.tensor([[8], [9], [0]])]
    left, right = side_by_side(rows, "left"), side_by_side(rows, "right")
    assert [columns[:, 0].tolist() for columns, _ in (left, right)] == [[[5, 6, 7], [1, 1, 8]], [[5, 6, 7], [8, 1, 1]]]
    assert [mask[1].tolist() for _, mask in (left, right)] == [[False, False, True], [True, False, False]]
    assert left[0][1, PICTURE].tolist() == [0, 0, 0]
    assert left[1][0].all()


def test_the_table_has_the_worst_of_a_group():
    worse = Line(**{**vars(ROUGH), "padding": "right", "rms_error": 0.07, "kl": 3e-3, "top1": 0.5})
    wide = Line(**{**vars(ROUGH), "padding": "none", "rms_error": 0.08, "rounding": 0.08})
    assert worst([ROUGH, worse, wide]) is worse
    numbers = table([wide, ROUGH, worse]).splitlines()[1].split()[4:]
    assert numbers == ["3.0e-01"] * 3 + [
        "7.0e-02",
        "3.0e-02",
        "3.0e-03",
        "50.0%",
        *["more", "than", "1.41", "times", "the", "rounding"],
    ]
