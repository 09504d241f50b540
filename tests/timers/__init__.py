"""Timers that run `upkeep` each minute: cron, systemd and launchd."""
