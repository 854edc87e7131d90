"""The Python corpus and its batches: the same everywhere, nothing held out is trained on."""

import ast

import pytest
import torch

from helpers.data import batches, python_corpus


@pytest.fixture(scope="module")
def corpus():
    return python_corpus()


def test_the_corpus_is_megabytes_of_python_in_a_fixed_order(corpus):
    assert sum(map(len, corpus.train.values())) > 5_000_000
    assert list(corpus.train) == sorted(corpus.train)
    assert corpus == python_corpus()
    ast.parse(corpus.train["json/decoder.py"])


def test_one_file_in_twenty_is_held_out_and_never_trained_on(corpus):
    assert not set(corpus.train) & set(corpus.held_out)
    assert 0.02 < len(corpus.held_out) / (len(corpus.train) + len(corpus.held_out)) < 0.10


def test_tables_tests_packages_and_files_of_this_machine_are_left_out(corpus):
    for name in [*corpus.train, *corpus.held_out]:
        assert not {"encodings", "test", "tests", "site-packages", "lib2to3", "pydoc_data"} & set(name.split("/"))
        assert "_sysconfigdata" not in name


def test_a_file_is_held_out_by_its_name_whatever_else_is_there(corpus, tmp_path):
    for name in ("copyreg.py", "secrets.py", "json/decoder.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
    small = python_corpus(tmp_path)
    assert set(small.held_out) == {"copyreg.py", "secrets.py"}
    assert set(small.held_out) <= set(corpus.held_out)
    assert small.train == {"json/decoder.py": "x = 1\n"}


def test_a_python_without_source_is_told_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"zipped or absent; use a Python that keeps its \.py files"):
        python_corpus(tmp_path)


def test_a_batch_depends_on_its_step_only():
    rows = batches(torch.arange(1000), batch=3, length=10, seed=4)
    later = [rows[step] for step in (50, 7)]
    assert torch.equal(later[1], rows[7])
    assert torch.equal(later[0], batches(torch.arange(1000), 3, 10, 4)[50])


def test_a_row_is_a_run_of_neighbours_one_longer_than_what_is_read():
    batch = batches(torch.arange(1000), batch=3, length=10, seed=0)[0]
    assert batch.shape == (3, 11)
    assert torch.equal(batch - batch[:, :1], torch.arange(11).expand(3, 11))


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_one_pass_predicts_no_token_twice_and_nearly_all_once(epoch):
    rows = batches(torch.arange(1007), batch=3, length=10, seed=1)
    steps = range(epoch * rows.steps_per_pass, (epoch + 1) * rows.steps_per_pass)
    predicted = torch.cat([rows[step][:, 1:].flatten() for step in steps])
    assert len(predicted.unique()) == len(predicted)
    assert len(predicted) >= 1007 - (2 + 3) * 10


def test_passes_and_seeds_differ():
    rows, others = (batches(torch.arange(1000), 3, 10, seed) for seed in (0, 1))
    assert not torch.equal(rows[0], rows[rows.steps_per_pass])
    assert not torch.equal(rows[0], others[0])


def test_the_smallest_row_of_tokens_gives_a_batch_and_one_less_is_refused():
    assert batches(torch.arange(50), batch=3, length=10)[0].max() < 50
    with pytest.raises(ValueError, match=r"49 tokens are too few .* at least 50 are needed"):
        batches(torch.arange(49), batch=3, length=10)
