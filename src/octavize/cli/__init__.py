"""The `octavize` command."""

from __future__ import annotations

import sys

from octavize.errors import InputError, require_extra


def run() -> None:
    """Entry point of the script: `main`, or one line on what to install for it."""
    try:
        for module in ("typer", "rich", "yaml"):
            require_extra(module, "cli")
        from octavize.cli.main import main

        main()
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # before a command has begun: those under way say what they kept
        print("Interrupted: nothing was begun", file=sys.stderr)
        sys.exit(130)
