import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wszoo.training.lock import only_writer

HOLD = """
import sys, time
from pathlib import Path
from wszoo.training.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_that_is_written_is_refused_and_its_writer_named(
    holder: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    said = rf"is being written by process {holder.pid} on \S+ since 20\S+ .*; wait for it to end"
    with pytest.raises(OSError, match=said), only_writer(tmp_path, wait_seconds=0.1):
        pytest.fail("the lock of a living process was taken")


def test_the_lock_falls_with_a_process_that_is_killed(
    holder: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    holder.kill()
    holder.wait()

    with only_writer(tmp_path, wait_seconds=5):
        assert json.loads((tmp_path / "writer.json").read_text())["pid"] == os.getpid()
    with only_writer(tmp_path, wait_seconds=0.1):
        pass
