"""torchrun, ending with the exit code on which its workers agree.

``python -m train.launch.torchrun`` takes what ``torchrun`` takes. Stock torchrun (2.14) ends with 1
whenever a worker failed or it was signalled itself, whatever its workers ended with: a cluster
could not tell a run that was stopped and saved from one that broke.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from train.launch.worker import EXIT_CODES, end_on_signals


def agreed_exit_code(notes: Path) -> int:
    """The exit code that every worker of this node has noted; 1 where they differ.

    Args:
        notes: Folder with one file per worker, which is empty for one that was killed.
    """
    codes = {note.read_text() for note in notes.iterdir()}
    code = codes.pop() if len(codes) == 1 else ""
    return int(code) if code else 1


def main() -> None:
    end_on_signals()
    # The import takes seconds, in which signals are to be heeded already.
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    arguments = parse_args(sys.argv[1:])
    if not arguments.module:
        click.echo("wszoo: only modules can be started; write it like -m train.pretrain", err=True)
        sys.exit(2)
    arguments.training_script_args.insert(0, arguments.training_script)
    arguments.training_script = "train.launch.worker"
    with TemporaryDirectory(prefix="exit-codes-") as notes:
        os.environ[EXIT_CODES] = notes
        try:
            run(arguments)
        except SignalException as error:
            click.echo(f"wszoo: {error}", err=True)
            sys.exit(agreed_exit_code(Path(notes)))
        except ChildFailedError as error:
            click.echo(str(error), err=True)
            # One that noted 0 and broke while it ended has failed all the same.
            sys.exit(agreed_exit_code(Path(notes)) or 1)


if __name__ == "__main__":
    main()
