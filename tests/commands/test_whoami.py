"""`whoami`, with and without a session."""

from __future__ import annotations

from commands.answers import Run, data_of


def test_whoami_prints_identity_and_rules(run: Run) -> None:
    data = data_of(run("whoami", "--json"), "whoami")
    assert set(data) == {"session_id", "anchor", "pid", "tty", "hostname", "codebase", "rules"}
    assert data["session_id"] == "a"
    assert all(set(rule) >= {"rule", "value", "used"} for rule in data["rules"])
    anonymous = data_of(run("whoami", "--json", session=None), "whoami", 5)
    assert anonymous["code"] == "no_identity"
