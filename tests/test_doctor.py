import hashlib
import json
import os
import re
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wszoo import doctor
from wszoo.doctor import Finding, diagnose
from wszoo.weights import Weights

ROOT = Path(__file__).parents[1]


def test_every_subject_is_looked_at_once() -> None:
    subjects = [finding.subject for finding in diagnose()]

    fixed = [subject for subject in subjects if subject != "packaged weights"]
    assert fixed == [
        "python",
        *("torch", "torchvision", "timm", "huggingface_hub", "safetensors", "pillow"),
        *("torchvision ops", "gpu", "cpu", "shared memory"),
        *("hub cache", "HF_HUB_OFFLINE", "WSZOO_WEIGHTS"),
    ]
    assert "packaged weights" in subjects


def test_what_is_amiss_comes_with_one_line_of_advice() -> None:
    for finding in diagnose():
        assert "\n" not in str(finding)
        assert finding.ok or finding.advice


def test_the_versions_that_the_tests_run_with_are_fine() -> None:
    versions = {finding.subject: finding for finding in diagnose()}

    assert all(versions[package].ok for package, _, _ in doctor.REQUIREMENTS)
    assert versions["torchvision ops"].ok


def test_findings_survive_json() -> None:
    findings = diagnose()

    data = json.loads(json.dumps([asdict(finding) for finding in findings]))

    assert [Finding(**fields) for fields in data] == findings


def test_the_required_versions_are_those_of_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    for package, floor, ceiling in doctor.REQUIREMENTS:
        expected = f'"{package}>={floor}' + (f",<{ceiling}" if ceiling else "") + '"'
        assert expected in text
    wanted = re.search(r'requires-python = ">=(\d+)\.(\d+)"', text)
    assert wanted is not None
    assert tuple(map(int, wanted.groups())) == doctor._PYTHON


@pytest.mark.parametrize(
    ("version", "parts"),
    [
        ("2.6.0+cu124", (2, 6, 0)),
        ("2.10.0a0+git1", (2, 10, 0)),
        ("1.20.0rc1", (1, 20, 0)),
        ("?", ()),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, parts: tuple[int, ...]) -> None:
    assert doctor._parts(version) == parts


def test_a_version_outside_the_range_says_what_to_install() -> None:
    found = metadata.version("timm")

    fine = doctor.check_version("timm", "1.0.26", None)
    too_old = doctor.check_version("timm", "99", None)
    too_new = doctor.check_version("timm", "0.1", "0.2")
    missing = doctor.check_version("no-such-package-here", "1", None)

    assert (fine.ok, fine.value, fine.advice) == (True, found, None)
    assert (too_old.ok, too_old.advice) == (False, "python -m pip install -U 'timm>=99'")
    assert (too_new.ok, too_new.advice) == (False, "python -m pip install -U 'timm>=0.1,<0.2'")
    assert (missing.ok, missing.value) == (False, "not installed")


def test_an_old_python_is_refused() -> None:
    assert not doctor.check_python("3.9.18").ok
    assert doctor.check_python("3.10.0").ok


def is_note(finding: Finding) -> bool:
    return finding.ok and bool(finding.advice) and str(finding).startswith("note ")


def test_more_threads_than_cores_are_advised_against_in_a_note() -> None:
    finding = doctor.check_cpu(threads=8, cores=2)

    assert is_note(finding)
    assert "OMP_NUM_THREADS=2" in str(finding)
    assert doctor.check_cpu(threads=1, cores=2).advice is None


def test_bfloat16_is_read_from_the_flags_of_the_processor(tmp_path: Path) -> None:
    with_bf16, without = tmp_path / "new", tmp_path / "old"
    with_bf16.write_text("flags : avx2 avx512_bf16 fma\n")
    without.write_text("flags : avx2 fma\n")

    assert doctor._native_bf16(with_bf16) == "native"
    assert doctor._native_bf16(without).startswith("emulated")
    assert doctor._native_bf16(tmp_path / "missing") == "unknown"


@pytest.mark.gpu
def test_gpus_are_named(tmp_path: Path) -> None:
    finding = doctor.check_gpus(tmp_path / "none")

    assert torch.cuda.get_device_name(0) in finding.value
    assert finding.advice is None


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="torch has a GPU"
)
def test_a_driver_that_torch_cannot_use_is_a_note_and_none_is_fine(tmp_path: Path) -> None:
    (tmp_path / "version").touch()

    unused = doctor.check_gpus(tmp_path / "version")
    none = doctor.check_gpus(tmp_path / "none")

    assert is_note(unused)
    assert f"which torch {torch.__version__} cannot use" in unused.value
    assert (none.value, none.ok, none.advice) == ("none", True, None)


def test_little_shared_memory_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SHARED_MEMORY", 0)
    enough = doctor.check_shared_memory(tmp_path)
    monkeypatch.setattr(doctor, "_SHARED_MEMORY", 2**80)
    little = doctor.check_shared_memory(tmp_path)

    assert "GiB" in enough.value and enough.advice is None
    assert is_note(little)
    assert "--shm-size=2g" in str(little)
    assert doctor.check_shared_memory(tmp_path / "none").advice is None


def test_a_cache_that_can_be_made_is_fine_and_is_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"

    assert doctor.check_hub_cache(folder).ok
    assert not folder.exists()


def test_a_file_in_place_of_the_cache_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    finding = doctor.check_hub_cache(tmp_path / "file")

    assert not finding.ok
    assert finding.advice is not None
    assert "HF_HOME" in finding.advice


def test_a_cache_is_fine_if_and_only_if_it_may_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    assert doctor.check_hub_cache(tmp_path / "hub").ok is (os.getuid() == 0)  # root may anywhere


def test_being_offline_is_stated_with_the_way_back() -> None:
    offline = doctor.check_offline(True)

    assert is_note(offline)
    assert "unset it" in str(offline)
    assert doctor.check_offline(False).advice is None


def test_the_weights_folder_tells_what_it_holds(tmp_path: Path) -> None:
    unset = doctor.check_weights_folder({})
    empty = doctor.check_weights_folder({"WSZOO_WEIGHTS": str(tmp_path)})
    (tmp_path / "some.thing").mkdir()
    (tmp_path / "some.thing" / "model.safetensors").touch()
    filled = doctor.check_weights_folder({"WSZOO_WEIGHTS": str(tmp_path)})
    absent = doctor.check_weights_folder({"WSZOO_WEIGHTS": str(tmp_path / "no")})

    assert (unset.ok, unset.value) == (True, "not set")
    assert not empty.ok
    assert not absent.ok
    assert str(absent).startswith("BAD")
    assert filled.ok
    assert str(filled).startswith("ok ")
    assert filled.value.endswith("holds some.thing (no record)")


def test_packaged_weights_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSZOO_WEIGHTS", str(tmp_path))
    path = tmp_path / "net.tag" / "model.safetensors"
    path.parent.mkdir()
    save_file({"weight": torch.zeros(2, dtype=torch.float16)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    good = Weights(model="net", tag="tag", sha256=digest, license="mit", packaged=True)
    damaged = Weights(model="net", tag="tag", sha256="0" * 64, license="mit", packaged=True)
    missing = Weights(model="net", tag="gone", sha256=digest, license="mit", packaged=True)
    elsewhere = Weights(model="net", tag="hub", sha256=digest, license="mit")

    findings = doctor.check_packaged([good, damaged, missing, elsewhere])

    assert [finding.ok for finding in findings] == [True, False, False]
    assert "sha256" in findings[1].value
    assert "no weights file" in findings[2].value
    assert doctor.check_packaged([elsewhere])[0].value == "none"
