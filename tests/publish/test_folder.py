"""What is refused before anything is sent."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.publish.folders import NAME, edit_json, put_record, render
from wszoo.files import sha256_of
from wszoo.publish import check_folder, file_metadata, recipe_hash
from wszoo.weights import ASSETS, WEIGHTS_FILE, Weights, find
from wszoo.weights_file import weights_bytes

PACKAGED = ASSETS / NAME / WEIGHTS_FILE


@pytest.fixture
def unpackaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A record of the weights as they lie in the folder."""
    return own_weights(folder, monkeypatch, read_results(folder))


def read_results(folder: Path) -> dict[str, str]:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    net = {"model": find(NAME).model, "tag": find(NAME).tag, "formula": "jhu"}
    return file_metadata(**net, settings=results["recipe"], code=results["code"])


def own_weights(folder: Path, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str]) -> Weights:
    """Write the weights with ``metadata`` into the folder, and put down a record of them."""
    path = folder / WEIGHTS_FILE
    path.write_bytes(weights_bytes(load_file(PACKAGED), metadata))
    weights = replace(find(NAME), packaged=False, sha256=sha256_of(path))
    put_record(weights, monkeypatch)
    edit_json(folder / "config.json", "wszoo", "sha256", value=weights.sha256)
    render(folder, weights)
    return weights


def test_a_publication_is_every_file_with_its_digest_and_the_packaged_weights(
    folder: Path,
) -> None:
    publication = check_folder(folder)

    assert publication.weights == find(NAME)
    assert publication.weights_path == PACKAGED
    for file in publication.files:
        assert file.sha256 == sha256_of(file.path)
        assert file.bytes == file.path.stat().st_size
    here = {path.name for path in folder.iterdir()}
    assert {file.name for file in publication.files} == here | {WEIGHTS_FILE}


def test_a_copy_of_packaged_weights_may_lie_in_the_folder(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes(PACKAGED.read_bytes())

    assert check_folder(folder).weights_path == PACKAGED


def test_weights_may_lie_in_the_folder(folder: Path, unpackaged: Weights) -> None:
    assert check_folder(folder).weights_path == folder / WEIGHTS_FILE


def test_a_folder_may_be_named_by_a_dot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    assert check_folder(Path()).weights.name == NAME


def test_the_hash_of_a_recipe_does_not_know_the_order_of_its_settings() -> None:
    settings = {"lr": 0.02, "phases": ((3, 64),)}

    assert recipe_hash(settings) == recipe_hash({"phases": [[3, 64]], "lr": 0.02})
    assert recipe_hash(settings) != recipe_hash({**settings, "lr": 0.01})


Change = Callable[[Path], object]
CHANGES: dict[str, tuple[Change, type[Exception], str]] = {
    "a pickle": (
        lambda folder: (folder / "pytorch_model.bin").write_bytes(b"\x80\x02"),
        ValueError,
        r"holds pytorch_model.bin; only README.md, .* are published, never a pickle: move it else",
    ),
    "a folder": (
        lambda folder: (folder / "runs.png").mkdir(),
        ValueError,
        "holds runs.png; only",
    ),
    "a pickle named as a picture": (
        lambda folder: (folder / "b.png").write_bytes(b"\x80\x02"),
        ValueError,
        r"b\.png is no PNG picture; write the folder again with `python -m train.publish`",
    ),
    "other weights than the packaged ones": (
        lambda folder: (folder / WEIGHTS_FILE).write_bytes(PACKAGED.read_bytes()[:-1] + b"?"),
        ValueError,
        "holds another model.safetensors than the package, which has the one of .*; delete this",
    ),
    "no card": (
        lambda folder: (folder / "README.md").unlink(),
        FileNotFoundError,
        r"lacks README\.md; write the folder again",
    ),
    "no configuration": (
        lambda folder: (folder / "config.json").unlink(),
        FileNotFoundError,
        r"lacks config\.json",
    ),
    "no picture": (
        lambda folder: (folder / "curves.png").unlink(),
        FileNotFoundError,
        r"README\.md shows curves\.png, which is not beside it",
    ),
    "a card in another encoding": (
        lambda folder: (folder / "README.md").write_bytes(b"Gr\xfc\xdfe"),
        ValueError,
        r"README\.md is not UTF-8; ",
    ),
    "a card typed by hand": (
        lambda folder: (folder / "README.md").write_text("---\nlicense: mit\n---\nBest ever"),
        ValueError,
        r"README\.md is not what its record and results.json render; run `make cards`",
    ),
    "no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        ValueError,
        r"config\.json is not JSON as published: Expecting property name",
    ),
    "a list": (
        lambda folder: (folder / "results.json").write_text("[]"),
        ValueError,
        r"results\.json is not JSON as published: no table of names",
    ),
    "another net": (
        lambda folder: edit_json(folder / "config.json", "architecture", value="resnet18_gn_ws"),
        ValueError,
        "says architecture 'resnet18_gn_ws', the record of .* 'test_resnet_gn_ws'; write",
    ),
    "another number of classes": (
        lambda folder: edit_json(folder / "config.json", "num_classes", value=10),
        ValueError,
        r"config.json says num_classes 10, the record of .* 200; write",
    ),
    "another formula": (
        lambda folder: edit_json(folder / "config.json", "wszoo", "formula", value="tf"),
        ValueError,
        "says wszoo.formula 'tf', the record of .* 'jhu'",
    ),
    "another digest": (
        lambda folder: edit_json(folder / "config.json", "wszoo", "sha256", value="0" * 64),
        ValueError,
        f"says wszoo.sha256 '0000.*', the record of .* '{find(NAME).sha256}'",
    ),
    "another type": (
        lambda folder: edit_json(folder / "config.json", "wszoo", "dtype", value="F32"),
        ValueError,
        "says wszoo.dtype 'F32', the record of .* 'F16'",
    ),
    "no key of ours": (
        lambda folder: edit_json(folder / "config.json", "wszoo", value=None),
        ValueError,
        "says wszoo.formula None, the record",
    ),
    "another mean": (
        lambda folder: edit_json(folder / "config.json", "pretrained_cfg", "mean", value=[0, 0, 0]),
        ValueError,
        r"says mean \[0, 0, 0\], the record of .* \(0.485",
    ),
    "another licence": (
        lambda folder: edit_json(folder / "config.json", "pretrained_cfg", "license", value="mit"),
        ValueError,
        "says license 'mit', the record of .* 'imagenet-research'",
    ),
    "no recipe": (
        lambda folder: edit_json(folder / "results.json", "recipe", value=None),
        ValueError,
        "results.json of .* names no recipe, or no code that trained it",
    ),
    "another recipe": (
        lambda folder: edit_json(folder / "results.json", "recipe_hash", value="0" * 64),
        ValueError,
        "results.json of .* says recipe_hash '0000.*', its recipe makes '[0-9a-f]{64}'; write",
    ),
    "no code": (
        lambda folder: edit_json(folder / "results.json", "code", value=""),
        ValueError,
        "results.json of .* names no recipe, or no code that trained it",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_folder_is_refused_with(what: str, folder: Path) -> None:
    change, kind, message = CHANGES[what]
    change(folder)

    with pytest.raises(kind, match=message) as caught:
        check_folder(folder)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recipe_hash", "0" * 64),
        ("code", "another"),
        ("tag", "e4_tin200"),
        ("model", "resnet18_gn_ws"),
        ("format", "tf"),
    ],
)
def test_a_file_that_says_something_else_of_itself_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str
) -> None:
    own_weights(folder, monkeypatch, {**read_results(folder), key: value})

    with pytest.raises(ValueError, match=f"says {key} '{value}' in its metadata, where record and"):
        check_folder(folder)


def test_a_file_of_folded_kernels_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_weights(folder, monkeypatch, {**read_results(folder), "folded": "true"})

    with pytest.raises(ValueError, match="holds folded kernels, not the weights of"):
        check_folder(folder)


def test_a_flipped_bit_is_refused(folder: Path, unpackaged: Weights) -> None:
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-3] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)

    with pytest.raises(ValueError, match=r"model\.safetensors has sha256 .* its record says"):
        check_folder(folder)


def test_a_pickle_named_as_weights_is_refused(folder: Path, unpackaged: Weights) -> None:
    (folder / WEIGHTS_FILE).write_bytes(b"PK\x03\x04 archive/data.pkl")

    with pytest.raises(ValueError, match="is a pickle or zip archive such as torch.save writes"):
        check_folder(folder)


def test_missing_weights_are_told(folder: Path, unpackaged: Weights) -> None:
    (folder / WEIGHTS_FILE).unlink()

    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors; write the"):
        check_folder(folder)


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    for name in ("mine", "test_resnet_gn_ws"):
        (tmp_path / name).mkdir()

        with pytest.raises(
            ValueError, match=f"no record is named '{name}', as .* `hf upload NAMES"
        ):
            check_folder(tmp_path / name)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder .*nothing; name one of model_cards, su"):
        check_folder(tmp_path / "nothing")


def test_weights_that_nobody_may_pass_on_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_record(replace(find(NAME), license="none stated"), monkeypatch)

    with pytest.raises(ValueError, match="is 'none stated', and without one nobody may pass weigh"):
        check_folder(folder)


def test_weights_that_nobody_confirmed_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_record(replace(find(NAME), sha256=None), monkeypatch)

    with pytest.raises(ValueError, match=f"{NAME} has no sha256; run `wszoo confirm {NAME}` first"):
        check_folder(folder)
