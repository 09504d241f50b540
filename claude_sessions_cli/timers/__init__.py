"""Timers that run `upkeep` each minute. A kind of timer is a module with `HELP`, `install` and `remove`."""
