"""Claude Code: its hooks, its status line, its settings file and a plugin."""
