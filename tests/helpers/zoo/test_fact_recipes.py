"""The models that learn facts: controls of equal work and equal width, and what is measured on them."""

from dataclasses import replace

import pytest
import torch
from support.drift import hold_to_record

from helpers.data import ask
from helpers.data.tasks import Rows
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.training.train import initialise
from helpers.zoo import fact_data
from helpers.zoo.evidence.facts import acceptance, loads
from helpers.zoo.recipes.facts import ACTIVE, EQUAL_STEPS, TOTAL, V3, equal_steps


def parameters(config) -> int:
    return sum(weight.numel() for weight in DeepSeekV3(replace(config, num_drafters=0)).parameters())


def test_the_large_control_does_as_much_work_as_the_mixture():
    assert equal_steps() == EQUAL_STEPS


def test_the_small_control_has_what_a_token_uses_and_the_large_one_all():
    routers = 2 * V3.num_experts * V3.width
    assert parameters(V3) - parameters(TOTAL) == routers
    unused = 2 * (V3.num_experts - V3.experts_per_token) * 3 * V3.width * V3.expert_width
    assert parameters(V3) - unused - parameters(ACTIVE) == routers


def test_the_facts_that_were_learned_are_those_of_cldr():
    learned, now = ({ask(fact): fact for fact in some} for some in (fact_data.facts(), fact_data.cldr_facts_now()))
    assert len(learned) == len(fact_data.facts())
    hold_to_record(now, learned, fact_data.RECORDED_WITH)
    assert fact_data.facts() == fact_data.cldr_facts_now()  # in the same order: a recipe draws by it


def test_the_file_of_facts_names_the_babel_that_it_came_from():
    assert f"babel {fact_data.RECORDED_WITH['babel']} " in fact_data.FILE.read_text(encoding="utf-8")


def test_facts_are_asked_as_they_are_told():
    facts, tokenizer = fact_data.facts(), fact_data.fact_tokenizer()
    assert len({(fact.locale, fact.key) for fact in facts}) == len(facts) > 3000
    rows = fact_data.stream(tokenizer)[0]
    assert tokenizer.decode(rows.token_ids[0, :2].tolist(), skip_special_tokens=False).endswith("\n")
    text = tokenizer.decode(rows.token_ids[0].tolist())
    line = text.strip().split("\n")[0]
    assert line in {f"{fact.locale}|{fact.key}={fact.answer}" for fact in facts}


@pytest.fixture
def model() -> DeepSeekV3:
    torch.manual_seed(0)
    made = DeepSeekV3(replace(V3, vocab_size=31, width=16))
    initialise(made, 0, std=0.5)
    return made


def rows() -> Rows:
    ids = torch.randint(31, (3, 20), generator=torch.Generator().manual_seed(0))
    return Rows(ids, torch.ones_like(ids).bool(), torch.ones_like(ids).bool())


def test_a_drafter_that_agrees_is_accepted_and_an_untrained_one_mostly_not(model):
    measured = acceptance(model, rows())
    assert measured["in answers"] == measured["everywhere"] < 0.5
    said = []

    def draft(hidden, ids):
        with torch.no_grad():
            said.append(model.logits(model.read(torch.cat([rows().token_ids[:, :1], ids], dim=1))[:, 1:]))
        return said[-1]

    model.draft = draft  # asks the model itself
    assert acceptance(model, rows())["everywhere"] == 1.0


def test_loads_name_every_mixture(model):
    measured = loads(model, rows())
    assert [row[0] for row in measured["rows"]] == ["blocks.1.mlp", "blocks.2.mlp"]
    assert all(0 <= row[1] <= 1 and 0 <= row[2] <= 1 for row in measured["rows"])
