"""Tests of the hooks, the status line, the settings and the plugin of Claude Code."""
