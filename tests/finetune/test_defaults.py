import pytest

from wszoo.finetune.defaults import lr_text, settings_for
from wszoo.finetune.settings import TaskName


@pytest.mark.parametrize(("task", "batch_size"), [("classify", 4), ("detect", 2), ("segment", 2)])
def test_what_is_not_asked_for_has_a_default(task: TaskName, batch_size: int) -> None:
    settings = settings_for(task, model="test_resnet_gn_ws", epochs=None, lr=None)

    assert settings.batch_size == batch_size
    assert settings.epochs > 0


def test_the_learning_rate_grows_with_the_batch_up_to_a_bound() -> None:
    settings = {
        size: settings_for("detect", model="test_resnet_gn_ws", batch_size=size)
        for size in (1, 4, 64)
    }

    assert [each.lr for each in settings.values()] == [1e-4, 4e-4, 1e-3]
    assert [lr_text(each) for each in settings.values()] == [
        "0.0001 = 0.0001 x 1 photo per step",
        "0.0004 = 0.0001 x 4 photos per step",
        "0.001, the most for AdamW; 0.0001 x 64 photos per step would be more",
    ]


def test_a_learning_rate_that_was_asked_for_is_taken() -> None:
    settings = settings_for("detect", model="test_resnet_gn_ws", lr=0.003)

    assert lr_text(settings) == "0.003, as asked for"
