import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from wszoo.training.distributed import NOT_JOINED, PARENT_LOST, Ranks, join_ranks

ROOT = Path(__file__).parents[2]
HERE = Path(__file__)

# Run by torchrun in the tests below: prints a digest of the weights after five steps.
TRAIN = """
import hashlib, sys
import torch
from torch import nn
from wszoo.training.distributed import join_ranks
from wszoo.training.engine import Learner

resumed = int(sys.argv[1])
with join_ranks(device="cpu", wait_minutes=1) as ranks:
    torch.manual_seed(0)
    sizes = [300, 500, 400, 300, 200, 3]
    model = nn.Sequential(*[nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])])
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), ranks=ranks)

    def loss(net, batch):
        return net(batch).square().mean()

    def step(index):
        draw = torch.Generator().manual_seed(100 * index + ranks.rank)
        learner.step([torch.randn(4, 300, generator=draw)], loss, rate=1.0)

    if resumed:
        state = torch.load(sys.argv[2], weights_only=True)
        learner.load_state_dict(state)
    for index in range(learner.step_count, 5):
        step(index)
        if index == 2 and ranks.is_main and not resumed:
            torch.save(learner.state_dict(), sys.argv[2])
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters()))
    if ranks.is_main:
        print(digest.hexdigest())
"""


def torchrun(ranks: int, script: Path, *arguments: str) -> str:
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    # Connections within this machine fail now and then in some sandboxes.
    words += ["--max-restarts=3"]
    run = subprocess.run(
        [*words, "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(script), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_without_torchrun_there_is_one_rank() -> None:
    with join_ranks(device="cpu") as ranks:
        assert ranks == Ranks(0, 1, torch.device("cpu"))
        assert ranks.is_main
        assert ranks.share("mine") == "mine"
        assert ranks.any(True)
        assert not ranks.any(False)
        assert ranks.sum(torch.tensor([2.0])).tolist() == [2.0]
        ranks.wait()
        model = nn.Linear(1, 1)
        assert ranks.replicate(model) is model


@pytest.mark.slow
def test_three_ranks_resumed_end_with_the_bits_of_three_left_alone(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    state = str(tmp_path / "state.pt")

    whole = torchrun(3, script, "0", state)
    resumed = torchrun(3, script, "1", state)

    assert len(whole) == 64
    assert resumed == whole


ORPHAN = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
worker.stdout.readline()
print(worker.pid, flush=True)
worker.wait()
"""
WORKER = """
import time
from wszoo.training.distributed import end_with_parent
end_with_parent(interval=0.1)
print("ready", flush=True)
time.sleep(300)
"""


def test_a_worker_ends_when_what_started_it_is_killed() -> None:
    words = [sys.executable, "-c", ORPHAN, WORKER]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as agent:
        assert agent.stdout is not None
        worker = int(agent.stdout.readline())
        agent.send_signal(signal.SIGKILL)
    for _ in range(100):
        if not alive(worker):
            return
        time.sleep(0.1)
    pytest.fail("the worker lives on")


def alive(pid: int) -> bool:
    """Whether a process still computes; one that nobody has waited for is dead, too."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_rank_that_finds_no_others_gives_up_in_one_line() -> None:
    alone = (
        "from wszoo.training.distributed import join_ranks\nwith join_ranks(wait_minutes=0.02): 0"
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}

    run = subprocess.run(
        [sys.executable, "-c", alone],
        env=os.environ | place,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert run.returncode == NOT_JOINED
    assert "wszoo: rank 1 of 2 could not reach the others in 0.02 minutes; start" in run.stderr


def test_the_exit_codes_of_workers_are_none_of_the_others() -> None:
    assert len({PARENT_LOST, NOT_JOINED, 0, 1, 2, 3, 4}) == 7
