"""The doctor tells the truth about healthy and broken machines, and speaks on the barest one."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from course import doctor, machine
from course.doctor import absent, fine, wrong

ROOT = Path(__file__).resolve().parents[2]


def topics(findings):
    return {finding.topic: finding for finding in findings}


# ---------------------------------------------------------------- facts about a machine


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_the_cores_of_a_container_are_read_in_both_versions_of_cgroups(tmp_path, files, cores):
    write(tmp_path, files)
    assert machine.cgroup_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"memory.max": "2147483648\n"}, 2**31),
        ({"memory.max": "max\n"}, None),
        ({"memory/memory.limit_in_bytes": "1000000000"}, 10**9),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ({}, None),
    ],
)
def test_the_memory_of_a_container_is_read_in_both_versions_of_cgroups(tmp_path, files, limit):
    write(tmp_path, files)
    assert machine.cgroup_memory(tmp_path) == limit


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("version", "bounds", "kept"),
    [
        ("2.13.0", "==2.13.0", True),
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13.1", "==2.13.0", False),
        ("5.23", ">=5.23,<5.24", True),
        ("5.23.9", ">=5.23,<5.24", True),
        ("5.24.0", ">=5.23,<5.24", False),
        ("5.9.0", ">=5.23,<5.24", False),  # numbers, not letters: 9 comes before 23
        ("10.0", ">=9,<11", True),
        ("1.0", "", True),
    ],
)
def test_versions_are_compared_as_numbers_within_their_bounds(version, bounds, kept):
    assert machine.within(version, bounds) == kept


def test_the_requirements_are_those_of_pyproject():
    wanted = machine.requirements()
    assert wanted["torch"].startswith("==")
    assert set(doctor.SHOWN) | set(doctor.COMFORTS) | set(doctor.PAGE_ONLY) <= set(wanted)
    packaging = pytest.importorskip("packaging.requirements")
    lines = [packaging.Requirement(f"{name}{bounds}") for name, bounds in wanted.items()]
    for requirement in lines:  # our few lines and pip's own library agree on what is installed
        version = machine.installed(requirement.name)
        if version is not None:
            expected = requirement.specifier.contains(version, prereleases=True)
            assert machine.within(version, wanted[requirement.name]) == expected, requirement


# ---------------------------------------------------------------- single checks


def test_a_package_that_is_missing_is_named_with_what_to_do_and_stops_the_course():
    found = topics(doctor.check_packages({"torch": "==2.13.0", "no-such-package": ">=1"}))
    assert "no-such-package" in found["packages"].says
    assert found["packages"].fatal
    assert "python3 -m course" in found["packages"].advice


def test_a_comfort_that_is_missing_does_not_stop_the_course(monkeypatch):
    monkeypatch.setattr(doctor, "COMFORTS", ("no-such-package",))
    found = topics(doctor.check_packages({"no-such-package": ">=1"}))
    assert found["packages"].outcome == "wrong"
    assert not found["packages"].fatal


def test_a_version_out_of_its_bounds_is_wrong_but_may_still_run():
    found = topics(doctor.check_packages({"plotly": "<1"}))
    assert found["plotly"].outcome == "wrong"
    assert "<1" in found["plotly"].says
    assert doctor.can_run(list(found.values()))


def test_a_package_that_leaves_the_pins_is_named_and_no_fault(tmp_path, monkeypatch):
    (found,) = doctor.check_pins()
    assert found.outcome in ("fine", "absent")
    (tmp_path / "constraints.txt").write_text("# pins\ntorch==1.0\nabsent==2.0\nbabel==0.9; sys_platform == 'amiga'\n")
    monkeypatch.setattr(doctor, "PINS", tmp_path)
    (found,) = doctor.check_pins()
    assert found.outcome == "absent"
    assert found.says == f"1 of 1 packages differ: torch {machine.installed('torch')} (pinned 1.0)"


def test_a_system_that_torch_has_no_build_for_is_said_before_anything_is_installed(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    monkeypatch.setattr(doctor, "unsupported", lambda wheels: "no build for an abacus")
    found = topics(doctor.check_python())["platform"]
    assert (found.outcome, found.fatal, found.advice) == ("wrong", True, "no build for an abacus")


def test_a_home_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch):
    assert topics(doctor.check_home())["home"].outcome == "fine"
    monkeypatch.setattr(doctor, "home_that_can_be_written", lambda: tmp_path)
    assert f"go to {tmp_path}" in topics(doctor.check_home())["home"].says


def test_a_package_that_breaks_on_import_says_how(tmp_path, monkeypatch):
    (tmp_path / "broken_wheel.py").write_text("raise OSError('libmissing.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    found = doctor.check_package("broken-wheel", "1.0", ">=1")
    assert "OSError: libmissing.so: cannot open" in found.says
    assert found.fatal
    assert "pip install --force-reinstall broken-wheel" in found.advice


def test_too_little_memory_and_disk_are_said_with_the_amount_wanted(monkeypatch):
    monkeypatch.setattr(doctor, "physical_memory", lambda: (8_000_000_000, 500_000_000))
    monkeypatch.setattr(doctor, "cgroup_memory", lambda: None)
    (memory,) = doctor.check_memory()
    assert (memory.outcome, memory.says) == ("wrong", "0.5 GB free of 8.0 GB")
    assert "2.0 GB" in memory.advice


def test_the_limit_of_a_container_counts_and_not_the_memory_of_its_host(monkeypatch):
    monkeypatch.setattr(doctor, "physical_memory", lambda: (64_000_000_000, 60_000_000_000))
    monkeypatch.setattr(doctor, "cgroup_memory", lambda: 1_000_000_000)
    (memory,) = doctor.check_memory()
    assert memory.outcome == "wrong"
    assert "1.0 GB (the container's limit)" in memory.says


def test_memory_that_cannot_be_known_is_no_failure(monkeypatch):
    monkeypatch.setattr(doctor, "physical_memory", lambda: (None, None))
    (memory,) = doctor.check_memory()
    assert memory.outcome == "absent"


def test_a_port_in_use_is_no_failure_since_jupyterlab_takes_another():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (busy,) = doctor.check_port(port)
    (free,) = doctor.check_port(port)
    assert (busy.outcome, free.outcome) == ("absent", "fine")


def test_a_build_folder_that_cannot_be_made_stops_the_course(tmp_path, monkeypatch):
    (tmp_path / "build").write_text("a file where the folder should be")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    (found,) = doctor.check_build_folder()
    assert found.fatal
    assert found.outcome == "wrong"


def test_spinning_threads_are_said(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert topics(doctor.check_torch())["waiting"].outcome == "wrong"
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert topics(doctor.check_torch())["waiting"].outcome == "fine"


def test_the_bfloat16_probe_reports_a_ratio_and_never_fails(monkeypatch):
    times = iter([1.0, 4.0])
    monkeypatch.setattr(doctor, "seconds_of", lambda function: next(times))
    emulated = doctor.check_bfloat16()
    assert (emulated.outcome, "0.25 times" in emulated.says) == ("absent", True)
    times = iter([4.0, 1.0])
    assert doctor.check_bfloat16().outcome == "fine"


def test_a_browser_on_the_path_is_found_with_its_version(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "browsers", lambda: iter([]))
    assert next(doctor.check_browser()).outcome == "absent"
    monkeypatch.setattr(doctor, "browsers", lambda: iter([Path(sys.executable)]))
    found = next(doctor.check_browser())
    assert found.outcome == "fine"
    assert str(sys.executable) in found.says


def test_a_kernel_of_another_environment_is_wrong(tmp_path, monkeypatch):
    pytest.importorskip("jupyter_client")
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    specification = {"argv": ["/elsewhere/bin/python", "-m", "ipykernel"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(specification))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    (found,) = doctor.check_kernel()
    assert found.fatal
    assert "/elsewhere/bin/python" in found.says


# ---------------------------------------------------------------- a check that breaks down


def breaks(error):
    def check():
        yield fine("first", "was fine")
        raise error

    return check


def test_a_check_that_breaks_down_keeps_what_it_found_and_becomes_a_finding():
    found = doctor.examine("zoo", breaks(ValueError("shard 2 is missing\nsecond line")), "get the file back")
    assert [finding.outcome for finding in found] == ["fine", "wrong"]
    assert found[1].says == "ValueError: shard 2 is missing"
    assert (found[1].advice, found[1].fatal) == ("get the file back", True)


def test_a_check_that_is_not_needed_breaks_down_without_stopping_the_course():
    found = doctor.examine("browser", breaks(TimeoutError()), "")
    assert doctor.can_run(found)
    assert found[1].advice


def test_a_missing_package_is_said_once_under_packages_and_not_by_every_check(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    found = doctor.examine("accelerator", breaks(ModuleNotFoundError("No module", name="torch.nn")), "")
    assert (found[1].outcome, found[1].says) == ("absent", "not looked at: torch is not installed")


def test_an_attempt_to_reach_the_network_is_told():
    assert doctor.check_network([]).outcome == "fine"
    assert "198.51.100.7" in doctor.check_network([("198.51.100.7", 443)]).says


# ---------------------------------------------------------------- the report


FINDINGS = [
    fine("memory", "8.0 GB free of 16.0 GB"),
    absent("accelerator", "none"),
    wrong("torch", "not installed", "install it – now", fatal=True),
]


def test_the_report_is_aligned_and_gives_advice_below_each_failure():
    lines = doctor.report(FINDINGS).splitlines()
    assert lines[0] == "✓ memory       8.0 GB free of 16.0 GB"
    assert lines[1] == "○ accelerator  none"
    assert lines[2] == "✗ torch        not installed"
    assert lines[3].strip() == "-> install it – now"
    assert lines[0].index("8.0") == lines[1].index("none") == lines[3].index("->")
    assert lines[-1] == "The course cannot run here yet; 1 thing to look at above."


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_where_the_screen_knows_no_check_marks_the_report_is_plain(encoding):
    text = doctor.report(FINDINGS, encoding)
    assert "✓" not in text
    assert [line.split()[0] for line in text.splitlines()[:3]] == ["ok", "--", "NO"]
    text.encode(encoding)


def test_every_failure_of_this_machine_comes_with_advice():
    for finding in doctor.diagnose():
        assert finding.outcome in ("fine", "absent", "wrong")
        assert bool(finding.advice) == (finding.outcome == "wrong"), finding
        assert "\n" not in finding.says + finding.advice


def test_the_diagnosis_prints_nothing_on_its_way_and_raises_no_warning(capsys):
    def noisy():
        print("a package greets the world")
        warnings.warn("and warns it", stacklevel=1)
        yield fine("noise", "was made")

    original = dict(doctor.CHECKS)
    try:
        doctor.CHECKS.clear()
        doctor.CHECKS["noise"] = (noisy, "")
        found = doctor.diagnose()
    finally:
        doctor.CHECKS.clear()
        doctor.CHECKS.update(original)
    assert [finding.topic for finding in found] == ["noise", "network"]
    assert capsys.readouterr() == ("", "")


def test_json_holds_the_same_findings_and_the_exit_status_says_whether_the_course_runs(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "diagnose", lambda: FINDINGS)
    assert doctor.main(["--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["can_run"] is False
    assert [row["topic"] for row in answer["findings"]] == ["memory", "accelerator", "torch"]
    monkeypatch.setattr(doctor, "diagnose", lambda: [fine("memory", "much"), wrong("port", "odd", "look")])
    assert doctor.main([]) == 0
    assert "The course runs here; 1 thing to look at above." in capsys.readouterr().out


def test_in_a_bare_python_with_an_ascii_screen_the_doctor_names_every_missing_package():
    """``-I -S`` leaves the standard library alone: no torch, no psutil, no Jupyter."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from course.doctor import main; sys.exit(main([]))"
    start = [sys.executable, "-I", "-S", "-X", "utf8=0", "-c"]
    shell = "import os, sys; sys.stdout.reconfigure(encoding='ascii'); " + code
    answer = subprocess.run([*start, shell], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 1, answer.stderr
    assert answer.stderr == ""
    assert answer.stdout.isascii()
    assert "NO packages" in answer.stdout
    for name in machine.requirements():
        assert name in answer.stdout
    assert "python3 -m course" in answer.stdout


def test_a_python_that_is_too_old_gets_one_line_and_no_traceback(monkeypatch, capsys):
    from course import __main__, bootstrap

    monkeypatch.setattr(bootstrap, "OLDEST", (99, 0))
    assert __main__.main(["doctor"]) == 1
    assert capsys.readouterr().err.startswith("course: Python 99.0 or newer is needed; this is")
