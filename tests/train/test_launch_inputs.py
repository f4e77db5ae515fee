import pytest
from click.testing import CliRunner, Result

from train.launch.__main__ import main

RUN = ["resnet50_gn_ws", "--recipe", "smoke", "--data", "/data/imagenet", "--out", "/runs/r50"]
KUBERNETES = ["--image", "wszoo:0.1", "--checkout", "/opt/wszoo", "--runs-claim", "runs"]
COMMANDS = {
    "slurm": [],
    "sky": ["--runs-bucket", "s3://my-runs", "--data-bucket", "gs://images/in1k"],
    "k8s": [*KUBERNETES, "--data-claim", "images"],
}


def launch(cluster: str, *words: str) -> Result:
    return CliRunner().invoke(main, [cluster, *RUN, *COMMANDS[cluster], *words])


REFUSED = [
    ("slurm", ["--nodes", "0"], "0 is not in the range x>=1"),
    ("slurm", ["--gpus", "many"], "'many' is not a valid integer"),
    ("slurm", ["--time", "24h"], "'24h' is no time; write it like 24:00:00"),
    ("slurm", ["--time", "1:60:00"], "'1:60:00' is no time"),
    ("slurm", ["--time", "0:02:00"], "0:02:00 is not longer than the --grace of 120 s"),
    ("slurm", ["--grace", "10"], "10 is not in the range x>=60"),
    ("slurm", ["--partition", "gpu\n#SBATCH --x"], "is no names; write it like gpu or gpu,gpu"),
    ("slurm", ["--account", "a b"], "'a b' is no name; write it like r50-in1k"),
    ("slurm", ["--mem", "0"], "'0' is no memory; write it like 500G"),
    ("slurm", ["--name", "$(x)"], "'$(x)' is no name"),
    ("slurm", ["--setup", "a\nb"], "is empty or not printable"),
    ("slurm", ["--out", "/runs/my run"], "Invalid value for --name: 'my run' is no name"),
    ("slurm", ["--data", "a\nb"], "'a\\nb' is empty or not printable"),
    ("slurm", ["--env", "A-B=1"], "'A-B=1' is not like NAME=VALUE"),
    ("slurm", ["--env", "A"], "'A' is not like NAME=VALUE"),
    ("slurm", ["--env", "A=1", "--env", "A=2"], "A is given twice; keep one"),
    ("slurm", ["--recipe", "smok"], "'smok' is not one of"),
    ("slurm", ["extra"], "unexpected 'extra'; options of train.pretrain go last"),
    ("slurm", ["--", "--note", "a\nb"], "'a\\nb' is empty or not printable"),
    ("sky", ["--accelerator", "H100:8"], "'H100:8' is no accelerator; write it like H100"),
    ("sky", ["--runs-bucket", "my-runs"], "'my-runs' is no bucket; write it like s3://runs"),
    ("sky", ["--out", "/my runs/r50"], "'/my runs' is no folder for a bucket"),
    ("sky", ["--out", "runs/r50"], "'runs/r50' is in no folder that storage could be mounted"),
    ("sky", ["--out", "/r50"], "'/r50' is in no folder"),
    ("sky", ["--out", "/data/r50"], "and hide the other"),
    ("sky", ["--name", "R50"], "'R50' is no name"),
    ("k8s", ["--out", "/data/runs/r50"], "one storage would be mounted at /data/runs, one at"),
    ("k8s", ["--data", "/runs/data/imagenet"], "one storage would be mounted at /runs, one at"),
    ("k8s", ["--out", "/runs/../etc/r50"], "is in no folder"),
    ("k8s", ["--name", "r50_gn"], "'r50_gn' is no name; write it like r50-in1k"),
    ("k8s", ["--name", "r" * 41], "has 41 characters; 40 fit"),
    ("k8s", ["--memory", "256"], "'256' is no memory; write it like 512Gi"),
    ("k8s", ["--image", "Wszoo image"], "'Wszoo image' is no image"),
    ("k8s", ["--runs-claim", "my_runs"], "'my_runs' is no name; write it like imagenet"),
    ("k8s", ["--checkout", "wszoo"], "'wszoo' is relative; write it like /opt/wszoo"),
    ("k8s", ["--env", "PET_NNODES=2"], "Trainer sets PET_NNODES itself; remove it"),
]


@pytest.mark.parametrize(("cluster", "words", "message"), REFUSED)
def test_what_the_cluster_would_refuse_is_refused_in_one_line(
    cluster: str, words: list[str], message: str
) -> None:
    result = launch(cluster, *words)

    assert result.exit_code == 2
    assert result.stdout == ""
    [error] = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert message in error


def test_an_unknown_model_is_refused_with_those_near_it() -> None:
    result = CliRunner().invoke(main, ["slurm", "resnet51_gn_ws", *RUN[1:]])

    assert result.exit_code == 2
    assert "resnet50_gn_ws" in result.stderr


def test_data_that_is_not_mounted_must_be_found_from_anywhere() -> None:
    run = [*RUN, "--data", "imagenet"]

    result = CliRunner().invoke(main, ["k8s", *run, *KUBERNETES])

    assert result.exit_code == 2
    assert "'imagenet' is relative; write it like /data/imagenet" in result.stderr
