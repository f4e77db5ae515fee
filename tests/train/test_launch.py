import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from train.launch.__main__ import main
from train.launch.worker import STOPPED
from train.recipes import RECIPES
from wszoo import terminal

RUN = ["resnet50_gn_ws", "--recipe", "smoke", "--data", "/data/imagenet", "--out", "/runs/r50"]
COMMANDS = {
    "slurm": [],
    "sky": ["--runs-bucket", "s3://my-runs", "--data-bucket", "gs://images/in1k"],
    "k8s": [
        *("--image", "registry.example.org/wszoo:0.1", "--checkout", "/opt/wszoo"),
        *("--runs-claim", "runs", "--data-claim", "images"),
    ],
}
HOSTILE = (
    """/data/it's "all" $(touch pwned) `touch pwned` ${HOME} $(HOME) $$ \\ {{out}} #: é 😀/x"""
)


def launch(cluster: str, *words: str, run: list[str] = RUN) -> Result:
    return CliRunner().invoke(main, [cluster, *run, *COMMANDS[cluster], *words])


def rendered(cluster: str, *words: str, run: list[str] = RUN) -> str:
    result = launch(cluster, *words, run=run)
    assert result.exit_code == 0, result.output
    return result.stdout


def parses_as_bash(text: str) -> bool:
    return subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""


def has_shape(value: Any, shape: Any) -> bool:
    """Whether a document has these keys and types and no others; a key with ``?`` may miss."""
    if isinstance(shape, dict):
        required = {key for key in shape if not key.endswith("?")}
        allowed = {key.rstrip("?"): inner for key, inner in shape.items()}
        return (
            isinstance(value, dict)
            and required <= set(value) <= set(allowed)
            and all(has_shape(inner, allowed[key]) for key, inner in value.items())
        )
    if isinstance(shape, list):
        return isinstance(value, list) and all(has_shape(item, shape[0]) for item in value)
    if isinstance(shape, str):
        return isinstance(value, str) and bool(re.fullmatch(shape, value))
    return type(value) is shape


TEXT = ".+"
TRAIN_JOB = {
    "apiVersion": r"trainer\.kubeflow\.org/v1alpha1",
    "kind": "TrainJob",
    "metadata": {"name": TEXT, "namespace?": TEXT},
    "spec": {
        "runtimeRef": {"name": TEXT},
        "trainer": {
            "image": TEXT,
            "numNodes": int,
            "numProcPerNode": int,
            "command": [TEXT],
            "args": [TEXT],
            "env": [{"name": "[A-Z_]+", "value": TEXT}],
            "resourcesPerNode": {"limits": {"cpu": int, "memory": TEXT, "nvidia.com/gpu": int}},
        },
        "runtimePatches": [
            {
                "manager": TEXT,
                "trainingRuntimeSpec": {
                    "template": {"spec": {"replicatedJobs": [{"name": "node", "template": dict}]}}
                },
            }
        ],
    },
}
POD = {
    "volumes": [
        {
            "name": TEXT,
            "emptyDir?": {"medium": "Memory", "sizeLimit": TEXT},
            "persistentVolumeClaim?": {"claimName": TEXT},
        }
    ],
    "containers": [
        {
            "name": "node",
            "volumeMounts": [{"name": TEXT, "mountPath": "/.+", "readOnly?": bool}],
        }
    ],
}
BUCKET = {"source": r"\w+://.+", "mode": "MOUNT|MOUNT_CACHED"}
SKY_JOB = {
    "name": TEXT,
    "workdir": TEXT,
    "num_nodes": int,
    "resources": {
        "accelerators": r"[A-Z0-9]+:\d+",
        "use_spot": bool,
        "job_recovery": {
            "strategy": "FAILOVER",
            "max_restarts_on_errors": int,
            "recover_on_exit_codes": [int],
        },
    },
    "file_mounts": {"/runs": BUCKET, "/data?": BUCKET},
    "envs": {"OMP_NUM_THREADS": TEXT, "NCCL_DEBUG": TEXT, "EXTRA?": TEXT},
    "setup": "(?s).+",
    "run": "(?s).+",
}


def test_the_exit_code_that_job_files_wait_for_is_that_of_the_trainer() -> None:
    assert STOPPED == terminal.STOPPED
    assert f'"$code" -eq {STOPPED} ' in rendered("slurm")
    sky = yaml.safe_load(rendered("sky"))
    assert sky["resources"]["job_recovery"]["recover_on_exit_codes"] == [STOPPED]


@pytest.mark.parametrize("nodes", ["1", "16"])
def test_the_batch_script_is_bash_that_asks_for_what_was_told(nodes: str) -> None:
    more = ["--partition", "gpu,gpu-long", "--account", "vision", "--mem", "500G", "--grace", "90"]

    text = rendered("slurm", "--nodes", nodes, "--gpus", "4", "--time", "2-04:00:00", *more)

    assert parses_as_bash(text)
    directives = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.MULTILINE)
    assert dict(directives) == {
        "job-name": "r50",
        "output": "%x-%j.log",
        "open-mode": "append",
        "nodes": nodes,
        "ntasks-per-node": "1",
        "gpus-per-node": "4",
        "cpus-per-task": "32",
        "time": "2-04:00:00",
        "signal": "B:USR1@90",
        "requeue": "",
        "mem": "500G",
        "partition": "gpu,gpu-long",
        "account": "vision",
    }
    assert "{{" not in text


def test_sbatch_reads_every_directive_before_the_first_command() -> None:
    lines = rendered("slurm", "--partition", "gpu").splitlines()

    first_command = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])


def test_the_managed_job_has_the_form_of_skypilot() -> None:
    text = rendered("sky", "--nodes", "2", "--on-demand", "--env", "EXTRA=no")

    job = yaml.safe_load(text)
    assert has_shape(job, SKY_JOB)
    assert job["num_nodes"] == 2
    assert job["resources"]["accelerators"] == "H100:8"
    assert job["resources"]["use_spot"] is False
    assert job["file_mounts"] == {
        "/runs": {"source": "s3://my-runs", "mode": "MOUNT_CACHED"},
        "/data": {"source": "gs://images/in1k", "mode": "MOUNT"},
    }
    assert job["envs"]["EXTRA"] == "no"
    assert parses_as_bash(job["run"]) and parses_as_bash(job["setup"])


def test_skypilot_gets_its_last_word_after_the_training() -> None:
    run = yaml.safe_load(rendered("sky"))["run"]

    assert not re.search(r"^\s*(set -e|exec|exit)\b", run, re.MULTILINE)
    assert run.rstrip().endswith('-m "${training[@]}"')


def test_the_train_job_has_the_form_of_kubeflow() -> None:
    text = rendered("k8s", "--nodes", "16", "--namespace", "vision", "--env", "NCCL_DEBUG=INFO")

    job = yaml.safe_load(text)
    assert has_shape(job, TRAIN_JOB)
    assert job["spec"]["trainer"]["numNodes"] == 16
    environment = {item["name"]: item["value"] for item in job["spec"]["trainer"]["env"]}
    assert environment["PYTHONPATH"] == "/opt/wszoo"
    assert environment["NCCL_DEBUG"] == "INFO"
    [patched] = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"][
        "replicatedJobs"
    ]
    pod = patched["template"]["spec"]["template"]["spec"]
    assert has_shape(pod, POD)
    claims = [volume.get("persistentVolumeClaim") for volume in pod["volumes"]]
    assert claims == [None, {"claimName": "runs"}, {"claimName": "images"}]
    mounts = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    assert mounts == ["/dev/shm", "/runs", "/data"]
    assert [volume["name"] for volume in pod["volumes"]] == [
        mount["name"] for mount in pod["containers"][0]["volumeMounts"]
    ]


@pytest.mark.parametrize("name", ["null", "true", "no", "on"])
def test_a_name_that_yaml_would_read_as_something_else_stays_a_name(name: str) -> None:
    for cluster in ("sky", "k8s"):
        job = yaml.safe_load(rendered(cluster, "--name", name))
        assert name in (job.get("name"), job.get("metadata", {}).get("name"))


@pytest.mark.parametrize("cluster", ["sky", "k8s"])
def test_without_a_place_for_the_data_none_is_mounted(cluster: str) -> None:
    text = CliRunner().invoke(main, [cluster, *RUN, *COMMANDS[cluster][:-2]]).stdout

    assert yaml.safe_load(text)
    assert "/data\n" not in text and "/data:" not in text and '"/data"' not in text


def start_in_kubernetes(text: str) -> tuple[list[str], str]:
    """Arguments and ``EXTRA`` as the kubelet hands them over to a container."""
    trainer = yaml.safe_load(text)["spec"]["trainer"]
    variables = {"HOME": "broken out"}

    def put_in(value: str) -> str:
        return re.sub(
            r"\$\$|\$\((\w+)\)",
            lambda found: "$" if found[0] == "$$" else variables.get(found[1], found[0]),
            value,
        )

    [extra] = [item["value"] for item in trainer["env"] if item["name"] == "EXTRA"]
    return [put_in(argument) for argument in trainer["args"]], put_in(extra)


def start_in_bash(script: str, folder: Path, **environment: str) -> tuple[list[str], str]:
    """Arguments and ``EXTRA`` with which a script calls ``python``."""
    programs = {
        "python": 'printf \'%s\\0\' "$@" > words; printf %s "$EXTRA" > extra',
        "srun": 'while [[ $1 == --* ]]; do shift; done; "$@"',
        "scontrol": "echo node1",
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    variables = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": "broken out", "SLURM_JOB_ID": "7"}
    subprocess.run(["bash", "-c", script], cwd=folder, env=variables | environment, check=True)
    return (folder / "words").read_text().split("\0")[:-1], (folder / "extra").read_text()


@pytest.mark.parametrize("cluster", COMMANDS)
def test_hostile_words_reach_the_trainer_as_they_are_and_nothing_runs(
    cluster: str, tmp_path: Path
) -> None:
    data = {"slurm": HOSTILE, "sky": "/data/imagenet", "k8s": HOSTILE.replace(":", "")}[cluster]
    run = ["resnet50_gn_ws", "--recipe", "smoke", "--data", data, "--out", "/runs/r50"]
    words = ["--note", HOSTILE, "a b", "-"]

    text = rendered(cluster, "--env", f"EXTRA={HOSTILE}", "--", *words, run=run)

    if cluster == "k8s":
        received, extra = start_in_kubernetes(text)
    elif cluster == "sky":
        job = yaml.safe_load(text)
        received, extra = start_in_bash(job["run"], tmp_path, **job["envs"])
    else:
        received, extra = start_in_bash(text, tmp_path)
    start = received.index("train.pretrain")
    assert received[start - 1 :] == ["-m", "train.pretrain", *run, *words]
    assert extra == HOSTILE
    assert not (tmp_path / "pwned").exists()


def test_a_job_file_is_written_once(tmp_path: Path) -> None:
    file = tmp_path / "r50.sh"

    first, second = launch("slurm", "-o", str(file)), launch("slurm", "-o", str(file))

    assert first.exit_code == 0
    assert first.output == ""
    assert file.read_text() == rendered("slurm", "--print")
    assert second.exit_code == 3
    assert second.stderr == f"wszoo: {file} exists; remove it, or name another file after -o\n"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_can_be_launched(recipe: str) -> None:
    assert f"--recipe {recipe}\n" in rendered("slurm", run=[*RUN[:2], recipe, *RUN[3:]])
