"""Leases on work items, shared by many coding-agent sessions in one Postgres table."""

__version__ = "0.1.0"
