"""Prune: delete sessions that ended long ago, without a loss for other tables that refer to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from claude_sessions_cli.database import Database
from claude_sessions_cli.errors import SessionsError
from claude_sessions_cli.failures import may_concern_one_row
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.refusals import DROPPED, Change, Refusal, Said, read_refusals, send_each
from claude_sessions_cli.transaction import Rows, Statement, Transaction

if TYPE_CHECKING:
    from uuid import UUID

# Rows deleted in one transaction; one by one if other tables refer to sessions, or the table refuses some.
PRUNE_BATCH = 5000
CAREFUL_BATCH = 1000
# The letters of pg_constraint.confdeltype, and those whose deletion writes the other table.
ON_DELETE = {"a": "no action", "r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}
WRITING = ("cascade", "set null", "set default")
FOREIGN_KEY_VIOLATIONS = ("23503", "23001")


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key by which another table depends on sessions.

    `through` is the table between, if there is one. `sessions` is the number of those to be deleted that it refers to;
    None if that is not known, because the role may not read the table, or because there is one between.
    """

    table: str
    on_delete: str
    through: str | None
    sessions: int | None
    probe: str | None = field(default=None, repr=False)

    @property
    def writes(self) -> bool:
        """Whether deleting a session deletes or changes rows of the table."""
        return self.on_delete in WRITING


@dataclass(slots=True)
class Pruned:
    """The number of sessions deleted, of those kept because other tables refer to them, and what refers and refuses."""

    deleted: int = 0
    referenced: int = 0
    references: list[Reference] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which sessions to delete, and whether with the rows that depend on them."""

    older_than: float
    cascade: bool
    dry_run: bool

    def limits(self, caller: Caller) -> dict[str, Any]:
        """Return the parameters that find the sessions."""
        return {"older_than_s": self.older_than, "now": caller.now}

    def keeps(self, reference: Reference) -> bool:
        """Whether a session stays if this refers to it."""
        return not (reference.writes and self.cascade)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What became of a batch; `found` is the number of its sessions to which each reference refers."""

    ids: list[UUID]
    deleted: int
    referenced: int
    found: list[int | None]
    refused: dict[UUID, Said]


def prune(
    database: Database,
    caller: Caller,
    plan: Plan,
    announce: Callable[[Sequence[Reference]], None] = lambda references: None,
) -> Pruned:
    """Delete sessions that have been released, and unchanged, for longer than a time.

    A session to which another table refers is kept. If the plan says `cascade`, it is deleted with the rows that the
    foreign key deletes or changes; `announce` gets these tables before anything is deleted.
    """
    if plan.dry_run:
        references, number = database.read(_count, caller, plan)
        if not references:
            return Pruned(number)
    result, after = Pruned(), None
    if not plan.dry_run:
        is_done, after = _delete_together(database, caller, plan, result)
        if is_done:
            return result
        references = database.read(_list_references)
    if dependent := [reference for reference in references if not plan.keeps(reference)]:
        announce(dependent)
    _delete_each(database, caller, plan, references, after, result)
    return result


def _count(tx: Transaction, caller: Caller, plan: Plan) -> tuple[list[Reference], int]:
    listed, counted = tx.commit(Statement("list_references"), Statement("count_prunable", **plan.limits(caller)))
    return _references(listed), int(counted[0]["number"])


def _list_references(tx: Transaction) -> list[Reference]:
    [listed] = tx.commit(Statement("list_references"))
    return _references(listed)


def _references(listed: Rows) -> list[Reference]:
    return [
        Reference(
            row["table_name"],
            ON_DELETE[row["on_delete"]],
            row["through"],
            0 if row["probe"] and row["is_readable"] else None,
            row["probe"] if row["is_readable"] else None,
        )
        for row in listed
    ]


def _delete_together(database: Database, caller: Caller, plan: Plan, result: Pruned) -> tuple[bool, UUID | None]:
    """Delete batches as long as no table refers to sessions and none is refused.

    Returns whether that was all, and the last id.
    """
    after = None
    while True:
        try:
            references, batch = database.delete(caller.actor, _delete_batch, caller, plan, after)
        except SessionsError as error:
            if not may_concern_one_row(error):
                raise
            return False, after
        if references:
            return False, after
        dropped = {row["row_id"]: (DROPPED, None) for row in batch if not row["is_written"]}
        result.deleted += len(batch) - len(dropped)
        result.refused += read_refusals(database, caller, dropped)
        if len(batch) < PRUNE_BATCH:
            return True, None
        after = batch[-1]["row_id"]


def _delete_batch(tx: Transaction, caller: Caller, plan: Plan, after: UUID | None) -> tuple[Rows, Rows]:
    batch = Statement("prune_sessions", after=after, row_limit=PRUNE_BATCH, **plan.limits(caller))
    references, deleted = tx.commit(Statement("list_references"), batch)
    return references, deleted


def _delete_each(
    database: Database,
    caller: Caller,
    plan: Plan,
    references: list[Reference],
    after: UUID | None,
    result: Pruned,
) -> None:
    """Delete the sessions to which nothing refers, one by one: a table may refuse what no key of this list explains."""
    found = [reference.sessions for reference in references]
    while True:
        if plan.dry_run:
            batch = database.read(_judge_batch, caller, plan, references, after)
        else:
            batch = database.delete(caller.actor, _judge_batch, caller, plan, references, after)
        result.deleted += batch.deleted
        result.referenced += batch.referenced
        result.refused += read_refusals(database, caller, batch.refused)
        found = [
            None if number is None or more is None else number + more
            for number, more in zip(found, batch.found, strict=True)
        ]
        if len(batch.ids) < CAREFUL_BATCH:
            break
        after = batch.ids[-1]
    result.references = [
        replace(reference, sessions=number) for reference, number in zip(references, found, strict=True)
    ]


def _judge_batch(
    tx: Transaction, caller: Caller, plan: Plan, references: list[Reference], after: UUID | None
) -> _Batch:
    query = "list_prunable" if plan.dry_run else "lock_prunable"
    [listed] = tx.send(Statement(query, after=after, row_limit=CAREFUL_BATCH, **plan.limits(caller)))
    ids = [row["id"] for row in listed]
    referred = _find_referred(tx, references, ids)
    kept: set[UUID] = set()
    for reference, found in zip(references, referred, strict=True):
        if plan.keeps(reference) and reference.through is None:
            # A table that cannot be read may refer to any session; NO ACTION and RESTRICT keys refuse by themselves.
            kept |= found if found is not None else set(ids) if reference.writes else set()
    condemned = [row_id for row_id in ids if row_id not in kept]
    numbers = [None if found is None else len(found) for found in referred]
    if plan.dry_run or not condemned:
        return _Batch(ids, len(condemned), len(kept), numbers, {})
    change = Change("delete_sessions", "listed", [{"id": row_id} for row_id in condemned], {})
    deleted, refused = send_each(tx, change)
    by_keys = {row_id for row_id, (_, state) in refused.items() if state in FOREIGN_KEY_VIOLATIONS}
    others = {row_id: said for row_id, said in refused.items() if row_id not in by_keys}
    return _Batch(ids, len(deleted), len(kept) + len(by_keys), numbers, others)


def _find_referred(tx: Transaction, references: list[Reference], ids: list[UUID]) -> list[set[UUID] | None]:
    """Return the sessions to which each reference refers; None if that is not known."""
    readable = [reference for reference in references if reference.probe is not None]
    if not readable:
        return [None] * len(references)
    array = "{" + ",".join(map(str, ids)) + "}"
    steps = [tx.run_each(reference.probe, [array]) for reference in readable if reference.probe]
    outcomes = iter(tx.send(*(statement for step in steps for statement in step))[2::3])
    return [_referred(next(outcomes)) if reference.probe else None for reference in references]


def _referred(outcome: Rows) -> set[UUID] | None:
    if any(row["reason"] for row in outcome):
        return None
    return {row["row_id"] for row in outcome}
