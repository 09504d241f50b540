"""The program's entry, and `python -m claude_sessions_cli`."""

from __future__ import annotations

import gc


def main() -> None:
    """Run the program and exit."""
    # A command lives for a fraction of a second, and the system frees its memory sooner. Before the imports, which
    # create most objects.
    gc.disable()
    from claude_sessions_cli import cli

    try:
        cli.main()
    finally:
        # Python collects once more at exit even so, which takes a sixth of a command's time.
        gc.freeze()


if __name__ == "__main__":
    main()
