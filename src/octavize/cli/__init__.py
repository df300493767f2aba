"""The `octavize` command."""

from __future__ import annotations

import sys

from octavize.errors import InputError, require_extra


def run() -> None:
    """Entry point of the script: `main`, or one line on what to install for it."""
    try:
        for module in ("typer", "rich", "yaml"):
            require_extra(module, "cli")
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    from octavize.cli.main import main

    main()
