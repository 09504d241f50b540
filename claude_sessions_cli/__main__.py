"""Run the program as `python -m claude_sessions_cli`."""

from claude_sessions_cli.cli import main

main()
