"""What runs `upkeep` each minute: cron, systemd and launchd."""
