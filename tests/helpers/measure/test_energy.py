"""Joules come from a counter or are not claimed."""

from helpers.measure.energy import measured_energy


def zone(root, name, microjoules, largest=10_000_000):
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n")


def test_packages_are_added_and_the_zones_inside_them_are_not(tmp_path):
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        zone(tmp_path, name, 1_000_000)
    with measured_energy(tmp_path) as energy:
        for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
            zone(tmp_path, name, 3_000_000)
    assert energy.joules == 4.0


def test_a_counter_that_began_again_at_zero_is_followed(tmp_path):
    zone(tmp_path, "amd-rapl:0", 9_500_000)
    with measured_energy(tmp_path) as energy:
        zone(tmp_path, "amd-rapl:0", 500_000)
    assert energy.joules == 1.0


def test_without_a_counter_nothing_is_measured(tmp_path):
    with measured_energy(tmp_path / "nothing") as energy:
        pass
    assert energy.joules is None


def test_a_counter_that_cannot_be_read_is_none(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("secret")
    with measured_energy(tmp_path) as energy:
        pass
    assert energy.joules is None


def test_a_counter_that_vanishes_in_between_gives_no_figure(tmp_path):
    zone(tmp_path, "intel-rapl:0", 1)
    with measured_energy(tmp_path) as energy:
        (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert energy.joules is None
