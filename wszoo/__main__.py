"""``python -m wszoo``, so that launchers can start the commands."""

from wszoo.cli import main

if __name__ == "__main__":
    main()
