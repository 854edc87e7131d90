"""Following a recipe: stages in order, in one sitting or many, frozen parts as they were, beginnings shared."""

from dataclasses import replace

import pytest
import torch

from helpers.training.indexers.dsa import is_indexer
from helpers.zoo.follow import begin, follow
from helpers.zoo.recipes.tasks import GLM5_SIZES, TINY_GLM5, TINY_GLM5_DENSE, TINY_QWEN3_5, stage

SHORT = [stage(s.name, {32: 3}, n, 4e-3, loss=s.loss, trains=s.trains) for n, s in enumerate(TINY_GLM5.stages)]
FIRST = replace(TINY_QWEN3_5.stages[0].settings, steps=60)
RECIPE = replace(TINY_GLM5, config=replace(GLM5_SIZES, width=32, index_k=6), stages=tuple(SHORT))
TWIN = replace(
    RECIPE,
    name="twin",
    stages=(replace(SHORT[0], made_by="tiny-glm5"), stage("dense, on", {32: 2}, 7, 1e-3, loss=SHORT[0].loss)),
)


def weights(made) -> dict[str, torch.Tensor]:
    return made.model.state_dict()


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_every_stage_is_taken_and_trains_what_it_says(tmp_path):
    seen = {}

    def report(stage, run):
        seen.setdefault(stage.name, []).append(run.step)

    made = follow(RECIPE, tmp_path, report=report)
    assert made.whole
    assert seen == {"dense": [1, 2, 3], "indexer warm-up": [1, 2, 3], "sparse": [1, 2, 3]}
    assert all(weight.requires_grad for weight in made.model.parameters())
    first, after = weights(follow(replace(RECIPE, stages=(SHORT[0],)), tmp_path)), begin(RECIPE).state_dict()
    assert all(
        torch.equal(first[name], after[name]) == is_indexer(name) for name in dict(made.model.named_parameters())
    )


def test_the_warm_up_leaves_all_but_the_indexers_alone(tmp_path):
    dense = weights(follow(replace(RECIPE, stages=tuple(SHORT[:1])), tmp_path))
    warm = weights(follow(replace(RECIPE, stages=tuple(SHORT[:2])), tmp_path))
    changed = {name for name in dense if not torch.equal(dense[name], warm[name])}
    assert changed
    assert all(is_indexer(name) for name in changed)


def test_many_sittings_give_the_weights_of_one(tmp_path):
    whole, sittings = follow(RECIPE, tmp_path / "one"), 0
    while not (last := follow(RECIPE, tmp_path / "many", seconds=1e-9)).whole:  # no sitting is without a step
        sittings += 1
    assert sittings == 6  # of nine steps; the one that ends a stage and the one that begins the next share a sitting
    assert same(weights(whole), weights(last))


def test_a_twin_begins_where_the_first_stage_of_the_other_ended(tmp_path):
    follow(RECIPE, tmp_path)
    seen = []
    twin = follow(TWIN, tmp_path, report=lambda stage, run: seen.append(stage.name))
    assert set(seen) == {"dense, on"}  # the first stage was there already
    alone = follow(TWIN, tmp_path / "elsewhere")
    assert same(weights(twin), weights(alone))


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    follow(replace(RECIPE, stages=tuple(SHORT[:1])), tmp_path)
    with pytest.raises(ValueError, match="belongs to another run"):
        follow(replace(RECIPE, config=replace(RECIPE.config, width=40)), tmp_path)


def test_the_shipped_twin_shares_the_first_stage_of_the_shipped_model():
    ours, theirs = TINY_GLM5.stages[0], TINY_GLM5_DENSE.stages[0]
    assert theirs == replace(ours, made_by="tiny-glm5")
    assert begin(TINY_GLM5).state_dict().keys() == begin(TINY_GLM5_DENSE).state_dict().keys()
    assert same(begin(TINY_GLM5).state_dict(), begin(TINY_GLM5_DENSE).state_dict())


def test_a_shipped_recipe_learns_within_its_first_steps_and_goes_on_exactly(tmp_path):
    shipped = replace(TINY_QWEN3_5, stages=(replace(TINY_QWEN3_5.stages[0], settings=FIRST),))
    whole = follow(shipped, tmp_path / "one")
    losses = whole.runs["tasks"].losses
    assert sum(losses[-10:]) < sum(losses[:10]) - 10  # a nat each
    while not (last := follow(shipped, tmp_path / "many", seconds=4)).whole:
        pass
    assert same(weights(whole), weights(last))


def test_threads_are_those_of_the_recipe_while_it_is_followed_and_as_before_whatever_ends_it(tmp_path):
    before, seen = torch.get_num_threads(), []

    def stop(_stage, _run):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(replace(RECIPE, threads=before + 1), tmp_path, report=stop)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
