"""``python -m selfplay`` and ``torchrun -m selfplay``: the command."""

from selfplay.cli import main

if __name__ == "__main__":
    main()
