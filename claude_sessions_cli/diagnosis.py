"""What the catalog says about a failed statement: where the table is, what a constraint asks for, who hides rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import psycopg

from claude_sessions_cli.adapters import SEE_WHAT_DIFFERS
from claude_sessions_cli.errors import DuplicateRefused, PermissionDenied, SchemaMismatch, SessionsError, UnknownItem
from claude_sessions_cli.failures import CREATE, HIDDEN, MISSING, TABLE, first_line, grant, translate
from claude_sessions_cli.text import quote_name
from claude_sessions_cli.transaction import Rows, Statement, Transaction

# Of constraints with a name: a query tells what they ask for.
CONSTRAINTS = {"23503": "foreign key", "23505": "unique index", "23514": "check", "23P01": "exclusion constraint"}
NOT_OURS = "another program created it, so ask its owner; see it: claude-sessions schema check"
OWN_CHECKS = ("claude_sessions_status_check", "claude_sessions_track_check")


def diagnose(error: psycopg.Error, tx: Transaction, look_up: Callable[[Statement], Rows]) -> SessionsError:
    """Return the tool's error for one that ended `tx`, with what the catalog knows of its cause.

    `look_up` runs a query of the catalog after the transaction. Raises what it raises.
    """
    return (
        _explain_missing(error, look_up)
        or _explain_hidden(error, tx, look_up)
        or _explain_constraint(error, tx, look_up)
        or translate(error)
    )


def _explain_missing(error: psycopg.Error, look_up: Callable[[Statement], Rows]) -> SessionsError | None:
    if error.sqlstate not in MISSING:
        return None
    return _table_elsewhere(**look_up(Statement("find_table"))[0])


def _explain_hidden(
    error: psycopg.Error, tx: Transaction, look_up: Callable[[Statement], Rows]
) -> SessionsError | None:
    if error.sqlstate != "22P02" or HIDDEN not in first_line(error):
        return None
    return _hidden_rows(**look_up(Statement("read_access", commands=list(tx.kind.commands)))[0])


def _explain_constraint(
    error: psycopg.Error, tx: Transaction, look_up: Callable[[Statement], Rows]
) -> SessionsError | None:
    refused = error.diag
    place = {
        "schema_name": refused.schema_name,
        "table_name": refused.table_name,
        "constraint_name": refused.constraint_name,
    }
    # A trigger can raise such an error without a table, and a domain has none.
    if tx.expects_refusal or error.sqlstate not in CONSTRAINTS or not all(place.values()):
        return None
    found = look_up(Statement("find_constraint", **place))
    return _refused_by_constraint(error, **found[0]) if found else None


def _table_elsewhere(has_public: bool, places: Sequence[str]) -> SchemaMismatch | None:
    """Return the error of a table that is in none but other schemas, or has no schema; None if it is not created yet.

    Another table in `public` would be empty, and every work item in it free.
    """
    first = "" if has_public else "CREATE SCHEMA public; "
    if places:
        moves = f"{first}ALTER TABLE {places[0]}.claude_sessions SET SCHEMA public"
        return SchemaMismatch(
            f"the table is not in the schema public, but in {', '.join(places)}",
            f"move it there, if it is the one: {moves}; or name the right database in the DSN",
        )
    if not has_public:
        return SchemaMismatch(
            "the database has no schema public", f"as its owner: {first}then {CREATE.removeprefix('create it: ')}"
        )
    return None


def _refused_by_constraint(
    error: psycopg.Error, *, definition: str, columns: Sequence[str], refers_to: str | None
) -> SessionsError:
    """Return the error of a row that a constraint or a unique index refused, from what it asks for."""
    table = f"{error.diag.schema_name}.{error.diag.table_name}"
    constraint = f"the {CONSTRAINTS[error.sqlstate or '']} {error.diag.constraint_name} of {table}"
    if refers_to and table == TABLE:
        if "sd_id" in columns:
            return UnknownItem(
                f"no such work item: {constraint} refers to {refers_to}, which does not have it",
                f"add it to {refers_to}, or correct the name",
            )
        return SchemaMismatch(f"{constraint} rejects the row: {refers_to} has no such row: {definition}", NOT_OURS)
    if error.sqlstate == "23505":
        ours = NOT_OURS.replace("created it", "created the index")
        hint = f"end or prune that session: claude-sessions list --all; {ours}"
        return DuplicateRefused(f"{constraint} rejects the row: another row has the same {definition}", hint)
    if table != TABLE:
        hint = f"ask the owner of {table}"
    else:
        hint = SEE_WHAT_DIFFERS if error.diag.constraint_name in OWN_CHECKS else NOT_OURS
    return SchemaMismatch(f"{constraint} rejects the row: {definition}", hint)


def _hidden_rows(*, role: str, closed: Sequence[str], limits: Sequence[str], is_grantable: bool) -> PermissionDenied:
    """Return the error of a role from which row security hides rows: a policy is missing, or `limits` stand against it.

    `--grant` is the way out only if the policies that it gives a part in open the table.
    """
    text = f"row security hides rows of claude_sessions from the role {role}"
    if limits:
        names = ", ".join(limits)
        return PermissionDenied(
            f"{text}: the restrictive policy {names} limits it",
            f"an administrator must drop that policy, or leave {role} out of it",
        )
    if is_grantable:
        hint = grant(role)
    else:
        policy = f"{quote_name(f'claude_sessions_{role}')} ON {TABLE} TO {quote_name(role)}"
        hint = f"an administrator must run: CREATE POLICY {policy} USING (true) WITH CHECK (true)"
    return PermissionDenied(f"{text}: no policy opens {', '.join(closed)} to it", hint)
