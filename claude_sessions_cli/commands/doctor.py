"""The command `doctor`."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from claude_sessions_cli import as_text, identity, invocation, options, render
from claude_sessions_cli.errors import SchemaMismatch, SessionsError
from claude_sessions_cli.operations import doctor as operation
from claude_sessions_cli.operations.caller import Caller
from claude_sessions_cli.operations.doctor import Finding, Verdict
from claude_sessions_cli.settings import rule_words

if TYPE_CHECKING:
    from claude_sessions_cli.identity import Identity
    from claude_sessions_cli.render import Output
    from claude_sessions_cli.settings import Settings

app = options.new_app()


@app.command()
def doctor(dsn: options.Dsn = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Check the set-up, and name what mends it.

    Exit 0 unless a check fails; 7 if it does, or the error's own code if the database cannot be reached.
    """
    from claude_sessions_cli import surroundings

    who = identity.detect(os.environ)
    output = render.Output("doctor", json, quiet)
    settings, findings, error = _ask(dsn, who, output)
    findings += surroundings.diagnose(os.environ, who, settings)
    findings = [replace(finding, mend=options.repeat_dsn(finding.mend, dsn)) for finding in findings]
    data = {"findings": [asdict(finding) for finding in findings]}
    failed = sum(finding.verdict is Verdict.FAILURE for finding in findings)
    if failed and error is None:
        error = SchemaMismatch(f"{failed} check{'' if failed == 1 else 's'} failed", "mend it as shown")
    if error is None or not json:
        output.result(data, lambda: as_text.findings_text(findings))
    if error:
        error.data = data
        raise error


def _ask(dsn: str | None, who: Identity, output: Output) -> tuple[Settings | None, list[Finding], SessionsError | None]:
    """Return the settings and the checks of the database, and the error if one of the two cannot be had.

    The others are made all the same.
    """
    try:
        settings = invocation.load_settings(dsn)
    except SessionsError as error:
        return None, [Finding("settings", Verdict.FAILURE, error.message, error.hint)], error
    try:
        with invocation.open_database(settings, output) as database:
            private = "the private server, " if settings.dsn is None else ""
            connection = Finding("connection", Verdict.OK, f"{private}{rule_words(settings.dsn_source)}")
            return settings, [connection, *operation.diagnose(database, Caller(who, settings))], None
    except SessionsError as error:
        return settings, [Finding("connection", Verdict.FAILURE, error.message, error.hint)], error
