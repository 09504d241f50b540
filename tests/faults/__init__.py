"""Races of real processes, and faults at any statement of theirs."""
