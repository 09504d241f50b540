"""One item whose name has several Unicode forms: stored and locked as NFC, found in the form of any row."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from clock import NOON, at
from conftest import Cli, Table, make_caller
from poll import until_waiting

from claude_sessions_cli import process, prompt
from claude_sessions_cli.errors import HeldByAnother, NotHeld
from claude_sessions_cli.model import Witness
from claude_sessions_cli.names import forms
from claude_sessions_cli.operations import run, term, wait
from claude_sessions_cli.operations.check import check
from claude_sessions_cli.operations.claim import ClaimResult, claim
from claude_sessions_cli.operations.heartbeat import heartbeat
from claude_sessions_cli.operations.history import read
from claude_sessions_cli.operations.list import Filters, list_sessions
from claude_sessions_cli.operations.park import park
from claude_sessions_cli.operations.reap import reap
from claude_sessions_cli.operations.release import release, release_other
from claude_sessions_cli.operations.wait import claim_any
from claude_sessions_cli.operations.whoami import whoami
from claude_sessions_cli.times import fence_of
from operations.claims import RUNNER, fence_of_claim

NFC, NFD = "SD-caf\u00e9", "SD-cafe\u0301"
# Of the two accents one is composed, in a form that no program writes by itself.
MIXED, MIXED_NFC = "\u00e9e\u0301", "\u00e9\u00e9"


def _insert(table: Table, item: str = NFD, session: str = "old", **columns: Any) -> None:
    """Insert a holder as another program would."""
    table.insert(session, sd_id=item, status="active", **{"claimed_at": NOON, "heartbeat_at": NOON, **columns})


@pytest.mark.parametrize("typed", [NFC, NFD])
def test_claim_stores_nfc_and_excludes_every_form(table: Table, typed: str) -> None:
    result = claim(table.database, make_caller("a", now=NOON), typed)
    assert (table.row("a")["sd_id"], table.own("a")["term"]["sd_id"]) == (NFC, NFC)
    for form in (NFC, NFD):
        with pytest.raises(HeldByAnother, match="is held by a"):
            claim(table.database, make_caller("b", now=at(1)), form)
        again = claim(table.database, make_caller("a", now=at(1)), form)
        assert (again.outcome, fence_of_claim(again)) == ("already_yours", fence_of_claim(result))


@pytest.mark.parametrize(("stored", "typed"), [(NFD, NFC), (NFC, NFD), (NFD, NFD), (MIXED, MIXED)])
def test_foreign_row_in_another_form_is_the_same_item(table: Table, stored: str, typed: str) -> None:
    _insert(table, stored)
    with pytest.raises(HeldByAnother, match=f"{stored} is held by old"):
        claim(table.database, make_caller("b", now=at(1)), typed)
    forcer = make_caller("b", now=at(2))
    result = claim(table.database, forcer, typed, force_reason="urgent", force_fence=fence_of(NOON))
    assert (result.outcome, table.row("old")["sd_id"]) == ("forced", None)
    assert table.own("old")["tombstone"]["sd_id"] == stored


def test_silent_holder_in_another_form_is_replaced(table: Table) -> None:
    _insert(table)
    result = claim(table.database, make_caller("b", now=at(16)), NFC)
    assert (result.outcome, table.row("old")["sd_id"], table.row("b")["sd_id"]) == ("took_over", None, NFC)


def test_two_forms_claimed_at_once_have_one_winner(table: Table) -> None:
    results: list[ClaimResult] = []

    def attempt(session: str, form: str) -> None:
        with suppress(HeldByAnother):
            results.append(claim(table.another(), make_caller(session), form))

    claimers = [threading.Thread(target=attempt, args=pair) for pair in (("a", NFC), ("b", NFD))]
    table.execute("BEGIN")
    table.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", NFC)
    for claimer in claimers:
        claimer.start()
    until_waiting(table.connection, 2)
    table.execute("COMMIT")
    for claimer in claimers:
        claimer.join()
    [row] = table.execute("SELECT count(*) FROM public.claude_sessions WHERE sd_id IS NOT NULL")
    assert (len(results), row["count"]) == (1, 1)


def test_own_row_in_another_form_is_kept_and_given_back(table: Table) -> None:
    for finish in (NFC, NFD):
        _insert(table, NFD, "a")
        mine = make_caller("a", now=at(1))
        assert claim(table.database, mine, NFC).outcome == "already_yours"
        assert table.row("a")["sd_id"] == NFD
        assert check(table.database, mine, NFC, fence=fence_of(NOON)).session.sd_id == NFD
        assert release(table.database, mine, finish).sd_id == NFD
        table.execute("DELETE FROM public.claude_sessions")


def test_checks_and_releases_name_holder_in_another_form(table: Table) -> None:
    _insert(table)
    heartbeat(table.database, make_caller("b", now=at(1)), register=True)
    with pytest.raises(NotHeld, match="does not hold SD-café: old does"):
        check(table.database, make_caller("b", now=at(1)), NFC)
    with pytest.raises(NotHeld, match="is held by old"):
        release(table.database, make_caller("b", now=at(1)), NFC)
    assert release_other(table.database, make_caller("b", now=at(1)), "old", NFC, reason="stuck").sd_id == NFD


def test_switch_and_any_see_own_item_in_another_form(table: Table) -> None:
    _insert(table, NFD, "a")
    mine = make_caller("a", now=at(1))
    assert claim(table.database, mine, NFC, switch=True).outcome == "already_yours"
    found = claim_any(table.database, mine, ["SD-1", NFC], lambda item: claim(table.database, mine, item))
    assert (found.outcome, found.session.session.sd_id) == ("already_yours", NFD)


def test_list_finds_every_form_and_shows_that_of_the_row(table: Table) -> None:
    _insert(table, NFD, "a")
    table.insert("b", sd_id=NFC, status="stale", claimed_at=NOON)
    for typed in (NFC, NFD):
        found = list_sessions(table.database, make_caller(None), Filters(sd_ids=[typed, "SD-1"])).sessions
        assert {seen.session.sd_id for seen in found} == {NFC, NFD}


def test_history_finds_terms_of_every_form(full_table: Table) -> None:
    _insert(full_table)
    full_table.execute("UPDATE public.claude_sessions SET sd_id = NULL")
    claim(full_table.database, make_caller("a"), NFC)
    for typed in (NFC, NFD):
        terms = read(full_table.database, typed).terms
        assert [(term.sd_id, term.session_id) for term in terms] == [(NFC, "a"), (NFD, "old")]


@pytest.mark.parametrize("stored", [NFC, NFD])
def test_fence_exceeds_deleted_terms_of_every_form(full_table: Table, stored: str) -> None:
    _insert(full_table, stored, claimed_at=at(60))
    full_table.execute("DELETE FROM public.claude_sessions")
    for typed in (NFC, NFD):
        taken = claim(full_table.database, make_caller("a", now=NOON), typed)
        assert fence_of_claim(taken) == (fence_of(at(60)) or 0) + 1
        release(full_table.database, make_caller("a", now=NOON))
        full_table.execute("DELETE FROM public.claude_sessions")
        full_table.execute("DELETE FROM public.claude_session_events WHERE session_id = 'a'")


@pytest.mark.parametrize(("earlier", "later"), [(NFC, NFD), (NFD, NFC)])
def test_fence_exceeds_the_latest_term_of_all_forms(full_table: Table, earlier: str, later: str) -> None:
    for session, item, minutes in (("a", earlier, 30), ("b", later, 60)):
        _insert(full_table, item, session, claimed_at=at(minutes))
    full_table.execute("DELETE FROM public.claude_sessions")
    taken = claim(full_table.database, make_caller("c", now=NOON), NFC)
    assert fence_of_claim(taken) == (fence_of(at(60)) or 0) + 1


def test_claim_names_itself_to_loser_of_another_form(table: Table) -> None:
    lost = {"sd_id": NFD, "fence": 1, "reason": "silent"}
    table.insert("a", status="stale", metadata=json.dumps({"claude_sessions_cli": {"tombstone": lost}}))
    claim(table.database, make_caller("b", now=at(1)), NFC)
    assert table.own("a")["tombstone"]["by"] == "b"
    assert heartbeat(table.database, make_caller("a", now=at(2))).outcome == "lost"


def test_item_lost_to_silence_is_restored_in_another_form(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), NFC)
    reap(table.database, make_caller("cron", now=at(16)))
    table.execute(
        "UPDATE public.claude_sessions SET metadata = jsonb_set(metadata,"
        " '{claude_sessions_cli,tombstone,sd_id}', to_jsonb(%s::text))",
        NFD,
    )
    assert heartbeat(table.database, make_caller("a", now=at(17))).outcome == "restored"
    assert table.row("a")["sd_id"] == NFC


def test_restore_yields_to_holder_in_another_form(table: Table) -> None:
    claim(table.database, make_caller("a", now=NOON), NFC)
    reap(table.database, make_caller("cron", now=at(16)))
    _insert(table, claimed_at=at(17), heartbeat_at=at(17))
    assert heartbeat(table.database, make_caller("a", now=at(18))).outcome == "lost"
    assert table.own("a")["tombstone"]["by"] == "old"


@pytest.mark.parametrize("ask", ["heartbeat", "check", "park", "whoami"])
def test_later_holder_in_another_form_is_a_loss(table: Table, ask: str) -> None:
    claim(table.database, make_caller("a", now=NOON), NFC)
    _insert(table, claimed_at=at(1))
    mine = make_caller("a", now=at(2))
    if ask == "heartbeat":
        assert heartbeat(table.database, mine).outcome == "lost"
    elif ask == "whoami":
        assert (found := whoami(table.database, mine).lost) and found.by == "old"
    else:
        with pytest.raises(NotHeld, match="old"):
            check(table.database, mine) if ask == "check" else park(table.database, mine, 60)


def test_later_holder_of_a_row_in_nfd_is_found(table: Table) -> None:
    _insert(table, NFD, "a")
    _insert(table, NFC, "b", claimed_at=at(1))
    _insert(table, "SD-other", "c", claimed_at=at(1))
    with pytest.raises(NotHeld, match="SD-café is held by b under the later fence"):
        check(table.database, make_caller("a", now=at(2)))


def test_row_rewritten_in_another_form_is_no_loss(table: Table) -> None:
    held = claim(table.database, make_caller("a", now=NOON), NFC)
    fence = fence_of_claim(held)
    table.execute("UPDATE public.claude_sessions SET sd_id = %s", NFD)
    seen = Witness(NFC, fence, 2**60)
    assert heartbeat(table.database, make_caller("a", now=at(1)), witness=seen).outcome == "renewed"
    assert term.renew(table.database, make_caller("a", now=at(2)), NFC, fence).session.sd_id == NFD


def test_run_enters_own_claim_in_another_form(table: Table) -> None:
    _insert(table, NFD, "a")
    mine = make_caller("a", now=at(1))
    holder, shared = run.find_holder(table.database, mine, process.read(1), NFC, named=False)
    assert (holder.session_id, shared) == ("a", True)
    assert term.enter(table.database, mine, RUNNER, NFC).session.sd_id == NFD
    term.leave(table.database, mine, RUNNER, NFC, fence_of(NOON) or 0)
    assert "run" not in table.own("a")


def test_release_in_another_form_wakes_waiter(full_table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claude_sessions_cli.operations.wait.POLL_S", (60.0, 60.0))
    _insert(full_table, heartbeat_at=at(10**7))
    database, caller = full_table.another(), make_caller("b")
    timer = threading.Timer(0.3, lambda: full_table.execute("UPDATE public.claude_sessions SET sd_id = NULL"))
    timer.start()
    try:
        taken = wait.wait(
            *(database, lambda: claim(database, caller, NFC), [NFC]),
            time.monotonic() + 30,
            lambda left, refusal: None,
        )
    finally:
        timer.join()
    assert taken.outcome == "claimed"


def test_completion_offers_the_form_that_was_typed(full_table: Table, cli: Cli) -> None:
    _insert(full_table, NFD)
    _insert(full_table, "SD-\u00fcber", "b")
    for typed, offered in ((NFC[:-1] + "\u00e9", [NFC]), (NFD, [NFD]), ("SD-u\u0308", ["SD-u\u0308ber"])):
        done = cli(
            env={
                "_TYPER_COMPLETE_ARGS": f"claude-sessions release {typed}",
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
                "_CLAUDE_SESSIONS_COMPLETE": "complete_fish",
                "CLAUDE_SESSIONS_COMPLETION_TIME": "30s",
                "CLAUDE_SESSIONS_DSN": full_table.dsn,
            }
        )
        assert done.stdout.split() == offered


def test_prompt_shows_one_form(table: Table) -> None:
    _insert(table, NFD, "a")
    session = check(table.database, make_caller("a", now=at(1))).session
    assert prompt.State.of(session, "0" * 16).item == NFC


def test_forms_are_nfc_nfd_and_what_was_typed() -> None:
    assert (forms(NFC), forms(NFD)) == ([NFC, NFD], [NFD, NFC])
    assert forms(MIXED) == [MIXED, MIXED_NFC, "e\u0301e\u0301"]
    assert forms("\u212a") == ["\u212a", "K"]
