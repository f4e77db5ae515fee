"""What a record says of itself."""

from typing import Any

from timm.models import PretrainedCfg

from wszoo.weights_file import WEIGHTS_FILE
from wszoo.weights_record import ASSETS, IMAGENET, Origin, OriginFile, Weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_record(**fields: Any) -> Weights:
    return Weights(**{"model": "toy", "tag": "e1_toys", "sha256": None, "license": "mit"} | fields)


def test_a_record_is_timms_configuration() -> None:
    record = make_record(num_classes=200, input_size=(3, 96, 96), crop_pct=1.0)

    cfg = record.pretrained_cfg(first_conv="conv1", classifier="fc")

    assert isinstance(cfg, PretrainedCfg)
    assert (cfg.num_classes, cfg.input_size, cfg.crop_pct) == (200, (3, 96, 96), 1.0)
    assert (cfg.license, cfg.interpolation, cfg.first_conv) == ("mit", "bilinear", "conv1")
    assert cfg.file is None and not cfg.has_weights
    on_hub = make_record(hub=f"zoo/toy@{COMMIT}").pretrained_cfg()
    assert (on_hub.hf_hub_id, on_hub.hf_hub_filename) == (f"zoo/toy@{COMMIT}", WEIGHTS_FILE)
    packaged = make_record(packaged=True).pretrained_cfg()
    assert packaged.file == str(ASSETS / "toy.e1_toys" / WEIGHTS_FILE)
    foreign = make_record(origin=Origin(url="https://host/x.pth", source="jhu"))
    assert foreign.pretrained_cfg().has_weights


def test_classes_without_names_are_numbered() -> None:
    record = make_record(num_classes=3)

    assert record.label_names() == record.label_ids() == ["0", "1", "2"]


def test_classes_of_imagenet_have_names_and_the_folders_of_its_photos() -> None:
    record = make_record(labels=IMAGENET)

    assert (record.label_ids()[954], record.label_names()[954]) == ("n07753592", "banana")
    assert len(record.label_ids()) == 1000
    assert record.label_ids() == sorted(record.label_ids()), "as class folders are counted"


def test_an_origin_names_its_files_in_the_order_in_which_they_are_tried() -> None:
    mirror = OriginFile(url="https://other.org/a%20b-0123abcd.pth?key=1", source="jhu")
    origin = Origin(url="https://host.org:81/x.pth", source="openmmlab", mirrors=(mirror,))

    assert origin.files == (origin, mirror)
    assert (origin.host, origin.file_name) == ("host.org:81", "x.pth")
    assert mirror.file_name == "a b-0123abcd.pth"
