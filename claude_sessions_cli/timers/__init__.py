"""Timers that run `upkeep` each minute. A kind is a module in `KINDS` of install.py."""
