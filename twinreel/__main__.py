"""The command `twinreel`, and `python -m twinreel`."""

from __future__ import annotations

import sys

from twinreel._names import claim, errors


def main() -> None:
    """Run the command line, whatever packages lie in the folder that it is run in."""
    _claim()
    from curation.cli.main import main as run  # noqa: PLC0415 - its name is claimed first

    run()


def _claim() -> None:
    try:
        claim(alone=True)
    except errors().TwinreelError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
else:
    # Processes that are started for a command's ranks load the module that it came from.
    _claim()
