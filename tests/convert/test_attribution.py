"""Files that are known, sources that are guessed, and what a report says of each."""

import pytest
import timm
import torch
from torch import Tensor

import wszoo  # noqa: F401 - registers the variants
from tests.convert.published import in_openmmlab_names, of_torchvision, with_prefix
from wszoo.convert import SOURCES, convert_state
from wszoo.convert.attribution import mean_of_filters, source_of_file

SOURCES_WITH_GN1 = ["openmmlab", "openmmlab_gn", "openmmlab_detectron", "groupnorm_reproduce"]
REST = "0" * 56
PUBLISHED = {  # as the model zoos list them
    "resnet50_gn_ws-15beedd8.pth": "openmmlab",
    "resnet101_gn_ws-3e3c308c.pth": "openmmlab",
    "resnext50_32x4d_gn_ws-0d87ac85.pth": "openmmlab",
    "resnext101_32x4d_gn_ws-34ac1a9e.pth": "openmmlab",
    "resnext50_32x4d_gn-c7e8b754.pth": "openmmlab_gn",
    "resnext101_32x4d_gn-ac3bb84e.pth": "openmmlab_gn",
    "resnet50_gn_thangvubk-ad1730dd.pth": "openmmlab_gn",
    "resnet50_gn-9186a21c.pth": "openmmlab_detectron",
    "resnet101_gn-cac0ab98.pth": "openmmlab_detectron",
    "resnet50_gn_a1h2-8fe6c4d0.pth": "timm",
}
NAMED = {
    "R-50-GN-WS.pth.tar": "jhu",
    "X-101-GN-WS.pth.tar": "jhu",
    "X-50-GN-WS.pkl": "jhu_detectron",
    "R-50-GN.pkl": "detectron",
    "R-101-GN.pkl": "detectron",
}


@pytest.mark.parametrize(("name", "source"), PUBLISHED.items())
def test_a_file_with_digits_is_known_by_them_whatever_its_name(name: str, source: str) -> None:
    digits = name.removesuffix(".pth")[-8:]
    assert source_of_file(name, digits + REST) == source
    assert source_of_file("weights.pth", digits + REST) == source
    assert source_of_file(name) == source
    assert source_of_file("weights.pth", REST + digits) is None


@pytest.mark.parametrize(("name", "source"), NAMED.items())
def test_a_file_without_digits_is_known_by_its_name(name: str, source: str) -> None:
    assert source_of_file(name, 64 * "0") == source_of_file(name) == source
    assert source_of_file(f"my-{name}", 64 * "0") is None


def test_a_name_whose_digits_are_not_those_of_the_content_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has sha256 00000000…, not c7e8b754… as its name says"):
        source_of_file("resnext50_32x4d_gn-c7e8b754.pth", 64 * "0")


def test_every_known_file_is_of_a_source_that_others_look_like() -> None:
    for source in {*PUBLISHED.values(), *NAMED.values()}:
        assert SOURCES[source].lookalikes, source


def test_a_known_file_decides_against_the_names_of_its_tensors() -> None:
    state = in_openmmlab_names(of_torchvision("resnext50_32x4d"))
    converted = convert_state(state, known_as="openmmlab_gn")
    assert (converted.architecture, converted.source.formula) == ("resnext50_32x4d_gn", None)
    assert converted.license == "none stated"
    assert "openmmlab_gn, is that of a published file, known by its sha256" in converted.notes[0]


def test_a_file_known_by_its_name_alone_is_said_to_be() -> None:
    converted = convert_state(with_prefix(of_torchvision("resnet50")), known_as="jhu")
    assert "known by its name alone" in converted.notes[0]


def test_the_user_decides_against_the_file_and_nothing_is_noted() -> None:
    state = in_openmmlab_names(of_torchvision("resnet50"))
    converted = convert_state(state, "openmmlab", known_as="openmmlab_gn")
    assert (converted.source.name, converted.notes) == ("openmmlab", ())


def test_a_guess_names_all_lookalikes_and_how_to_choose() -> None:
    state = of_torchvision("resnet50")
    for guessed, others in ((state, ["jhu"]), (in_openmmlab_names(state), SOURCES_WITH_GN1)):
        (note,) = convert_state(guessed).notes
        assert "guessed from names" in note and "--from" in note
        assert all(f"{other} (" in note for other in others)
    assert "timm (plain kernels, RGB)" in convert_state(state).notes[0]
    assert "jhu (WS, RGB)" in convert_state(state).notes[0]


def test_the_licence_of_a_guess_is_not_known() -> None:
    state = of_torchvision("resnet50")
    assert convert_state(state).license.startswith("not known: the source was guessed from names")
    assert convert_state(state, "timm").license == "apache-2.0"


def test_names_that_one_source_alone_has_are_no_guess() -> None:
    with torch.device("meta"):
        state = timm.create_model("resnetv2_50x1_bit").state_dict()
    converted = convert_state(state)
    assert converted.license == "apache-2.0"
    assert converted.notes == (SOURCES["timm_bit"].note,)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    return dict(timm.create_model("test_resnet_gn_ws", pretrained=True).state_dict())


def drawn() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(timm.create_model("test_resnet_gn_ws").state_dict())


def test_means_of_filters_are_those_of_chance_before_training_and_near_0_after(
    trained: dict[str, Tensor],
) -> None:
    assert mean_of_filters(drawn()) == pytest.approx(0.67, abs=0.07)
    assert mean_of_filters(trained) < 0.2


def test_means_of_filters_count_the_backbone_of_a_detector_alone(
    trained: dict[str, Tensor],
) -> None:
    detector = {f"backbone.body.{key}": tensor for key, tensor in trained.items()}
    heads = {"rpn.head.conv.0.0.weight": torch.ones(8, 8, 3, 3) + torch.rand(8, 8, 3, 3)}
    assert mean_of_filters(detector | heads) == mean_of_filters(trained)


def test_values_that_contradict_the_source_are_noted(trained: dict[str, Tensor]) -> None:
    plain = convert_state(trained, "timm").notes
    assert len(plain) == 1 and "plain kernels seldom are" in plain[0] and "timm" in plain[0]
    assert convert_state(trained, "jhu").notes == ()
    standardized = convert_state(drawn(), "jhu").notes
    assert len(standardized) == 1 and "means of 0." in standardized[0]
    assert convert_state(drawn(), "timm").notes == ()


def test_infinities_leave_no_note_of_means() -> None:
    broken = {k: torch.full_like(t, torch.inf) for k, t in drawn().items()}
    assert convert_state(broken, "jhu").notes == ()
