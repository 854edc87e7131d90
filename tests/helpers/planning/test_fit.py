"""Which model fits where: bytes that add up, the published sizes, and the edges."""

import pytest

from helpers.claims.ledger import claim
from helpers.facts import table
from helpers.planning.fit import CARDS, ROOM, chips, fit, machine, machines
from helpers.planning.plan import plan, published
from helpers.units import GB


@pytest.fixture(scope="module")
def glm5():
    return plan(published("glm5"))


def test_weights_caches_and_room_are_what_is_needed(glm5):
    on = machine("H200", 8)
    got = fit(glm5, on, "fp8 128x128", tokens=10_000, texts=3)
    assert got.weights_bytes == glm5.weight_bytes("fp8 128x128")
    assert got.needed_bytes == got.weights_bytes + 3 * glm5.cache_bytes(10_000) + ROOM * 8 * 141 * GB
    assert got.fits == (got.needed_bytes <= 8 * 141 * GB)


def test_as_many_texts_as_are_said_to_fit_do_and_one_more_does_not(glm5):
    on = machine("H200", 8)
    most = fit(glm5, on, "fp8 128x128", tokens=100_000).most_texts
    assert most > 1
    assert fit(glm5, on, "fp8 128x128", tokens=100_000, texts=most).fits
    assert not fit(glm5, on, "fp8 128x128", tokens=100_000, texts=most + 1).fits


def test_where_the_weights_alone_do_not_fit_no_text_does(glm5):
    got = fit(glm5, machine("24 GB card"), "int4 g32", tokens=1000)
    assert (got.fits, got.most_texts) == (False, 0)


def test_experts_may_have_a_format_of_their_own_as_kimi_is_published():
    kimi = plan(published("kimi_k25"))
    (row,) = [row for row in table("models") if row.get("config") == "kimi_k25"]
    weights = fit(kimi, machine("H200", 8), "bf16", routed="int4 g32").weights_bytes
    assert weights / GB == pytest.approx(row["disk_gb"], rel=0.01)


def test_a_cache_of_half_the_bits_takes_half_the_bytes(glm5):
    full, half = (fit(glm5, machine("H200"), tokens=50_000, cache_bits=bits).cache_bytes for bits in (16, 8))
    assert full == 2 * half


def test_machines_come_from_the_facts_the_smallest_first():
    assert {row["chip"] for row in table("hardware")} | set(CARDS) == set(chips())
    some = machines("H100", "24 GB card", counts=(1, 8))
    assert list(some) == ["1 x 24 GB card", "1 x H100", "8 x 24 GB card", "8 x H100"]
    assert some["8 x H100"].memory_bytes == 640 * GB


def test_what_is_not_there_is_named(glm5):
    with pytest.raises(ValueError, match="there is no chip 'A9000'; there are 24 GB card"):
        machine("A9000")
    with pytest.raises(ValueError, match="one chip or more"):
        machine("H100", 0)
    with pytest.raises(ValueError, match="no weight format 'int5'"):
        fit(glm5, machine("H100"), "int5")
    with pytest.raises(ValueError, match="0 texts or more"):
        fit(glm5, machine("H100"), texts=-1)
    with pytest.raises(ValueError, match="a context has 0 tokens or more"):
        fit(glm5, machine("H100"), tokens=-1)


def test_what_the_ledger_says_of_small_clusters_follows_from_the_plans():
    plans = {row["model"]: plan(published(row["config"])) for row in table("models") if "config" in row}
    said = claim("small-clusters").verdicts[-1].because

    def on(chip: str, count: int) -> list[str]:
        return [name for name, p in plans.items() if fit(p, machine(chip, count), "int4 g32", tokens=32_000).fits]

    def needed(name: str, chip: str) -> int:
        return next(n for n in range(1, 99) if name in on(chip, n))

    assert f"four 96 GB cards hold {len(on('96 GB card', 4))} of the {len(plans)} models" in said
    assert f"GLM-5 needs {needed('GLM-5', '96 GB card')} such cards or {needed('GLM-5', 'H100')} H100" in said
    assert f"Kimi K2.5 {needed('Kimi-K2.5', '96 GB card')} or {needed('Kimi-K2.5', 'H100')}" in said
    assert f"eight H100 hold {len(on('H100', 8))}, and eight H200 all of them" in said
    assert len(on("H200", 8)) == len(plans)
