"""``course train-zoo``: the same recipe gives the same folder, and a run in two sittings is a run in one."""

from dataclasses import replace

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from course.authoring import train_zoo
from helpers.data import Corpus, batches
from helpers.models.configs.qwen3 import Config
from helpers.training.train import Settings
from helpers.zoo import read_card
from helpers.zoo.evidence import python
from helpers.zoo.recipe import Stage
from helpers.zoo.recipes.python import TINY_QWEN3
from helpers.zoo.tokenizer import token_row, train_tokenizer

TRAIN = {f"{n}.py": f"def add_{n}(x):\n    return x + {n}\n" * 30 for n in range(4)}
CORPUS = Corpus(TRAIN, {"one.py": "def one(x):\n    return x\n" * 9})
STAGE = Stage(
    "text", Settings(6), lambda tokenizer: batches(token_row(TRAIN.values(), tokenizer), 2, 16), "five short files"
)
RECIPE = replace(
    TINY_QWEN3,
    config=Config(300, 16, 2, 2, 1, 8, 24, tied=True, context=64),
    tokenizer=lambda: train_tokenizer(TRAIN.values(), 300),
    stages=(STAGE,),
    seed=3,
    threads=1,
)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Five short files for a library, and few samples: the machinery is the same."""
    monkeypatch.setattr(python, "python_corpus", lambda: CORPUS)
    monkeypatch.setattr(python, "SAMPLES", 2)
    monkeypatch.setattr(python, "NEW_TOKENS", 8)
    monkeypatch.setattr(train_zoo, "recipe", lambda name: RECIPE)


def weights(build):
    return (build / "tiny-qwen3" / "model" / "model.safetensors").read_bytes()


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(tmp_path, monkeypatch):
    for name in ("a", "b"):
        assert train_zoo.main([], tmp_path / name) == 0
    monkeypatch.setattr(train_zoo, "recipe", lambda name: replace(RECIPE, seed=4))
    assert train_zoo.main([], tmp_path / "c") == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


def test_many_sittings_give_the_weights_of_one(tmp_path, capsys):
    assert train_zoo.main([], tmp_path / "one") == 0
    codes = [train_zoo.main(["--seconds", "1e-9"], tmp_path / "many") for _ in range(6)]
    assert codes == [1, 1, 1, 1, 1, 0]
    assert "5 of 6 steps of the stage 'text' are done. The same command goes on." in capsys.readouterr().out
    assert weights(tmp_path / "one") == weights(tmp_path / "many")


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(*_args, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_zoo, "follow", interrupted)
    assert train_zoo.main([], tmp_path) == 130
    assert "The same command goes on from the last checkpoint." in capsys.readouterr().out


def test_the_folder_opens_in_transformers_and_its_card_counts(tmp_path):
    assert train_zoo.main(["--steps", "2", "--out", str(tmp_path / "out")], tmp_path) == 0
    card = read_card(tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert card["training"]["text"]["steps"] == 2
    assert card["recipe"]["stages"]["text"]["settings"]["steps"] == 2
    assert card["parameters"] == theirs.num_parameters()
    assert len(load_file(tmp_path / "out" / "model.safetensors")) == 2 + 2 * 11


def test_a_damaged_checkpoint_is_one_line_and_no_traceback(tmp_path, capsys):
    assert train_zoo.main(["--seconds", "1e-9"], tmp_path) == 1
    checkpoint = tmp_path / "tiny-qwen3" / "text-6.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    assert train_zoo.main([], tmp_path) == 2
    assert "is not a whole checkpoint" in capsys.readouterr().out


def test_a_model_that_cannot_be_written_is_one_line_and_leaves_the_one_before_whole(tmp_path, monkeypatch, capsys):
    assert train_zoo.main([], tmp_path) == 0
    before = weights(tmp_path)
    monkeypatch.setattr(train_zoo, "recipe", lambda name: replace(RECIPE, evidence=fails))
    assert train_zoo.main([], tmp_path) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train-zoo: ")]
    assert line == f"train-zoo: cannot write {tmp_path}: no space left"
    assert weights(tmp_path) == before


def test_a_folder_that_cannot_be_written_is_one_line_before_the_training(tmp_path, monkeypatch, capsys):
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(train_zoo, "follow", lambda *_: pytest.fail("it was trained"))
    for arguments, build in (([], tmp_path / "a file"), (["--out", str(tmp_path / "a file")], tmp_path)):
        assert train_zoo.main(arguments, build) == 1
        assert capsys.readouterr().err == f"train-zoo: cannot write {tmp_path / 'a file'}: Not a directory\n"


def fails(made):
    raise OSError("no space left")


def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys):
    assert train_zoo.main(["--steps", "0"], tmp_path) == 2
    assert "--steps 0: at least one step is needed in each stage" in capsys.readouterr().out
    assert train_zoo.main(["--device", "gpu"], tmp_path) == 2
    assert "gpu" in capsys.readouterr().out
    monkeypatch.undo()
    assert train_zoo.main(["tiny-gpt"], tmp_path) == 2
    assert "there is no recipe 'tiny-gpt'; there is tiny-qwen3, " in capsys.readouterr().out
