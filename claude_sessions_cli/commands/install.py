"""The command `install`."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from claude_sessions_cli import options
from claude_sessions_cli.errors import SessionsError, UsageError
from claude_sessions_cli.timers.install import KINDS, Kind

app = options.new_app(help="Install hooks for an agent, or a timer.")

Here = Annotated[bool, typer.Option("--here", help="Run heartbeat --here alone: another host reaps.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be written; write nothing.")]
Remove = Annotated[bool, typer.Option("--remove", help="Remove it.")]


def _add_timer(name: str, kind: Kind) -> None:
    @app.command(name, help=f"{kind.HELP}: heartbeat --here and reap, each minute.", short_help=f"{kind.HELP}.")
    def install(
        here: Here = False,
        dry_run: DryRun = False,
        remove: Remove = False,
        dsn: options.Dsn = None,
        json: options.Json = False,
        quiet: options.Quiet = False,
    ) -> None:
        from claude_sessions_cli import as_text, render
        from claude_sessions_cli.timers import install as operation
        from claude_sessions_cli.timers import job

        output = render.Output(f"install {name}", json, quiet)
        if remove:
            options.refuse_beside("--remove", {"--here": here, "--dsn": dsn is not None})
        try:
            if remove:
                result = operation.remove(name, os.environ, dry_run=dry_run)
            else:
                planned = job.plan(os.environ, sys.argv[0], dsn, only_here=here)
                result = operation.install(name, planned, os.environ, dry_run=dry_run)
        except OSError as error:
            raise SessionsError(f"cannot write {error.filename}: {error.strerror}", options.CANNOT_WRITE) from None
        if result.note:
            output.note(result.note)
        output.result(asdict(result), lambda: as_text.timer_text(result), whole=True)


@app.command(short_help="Claude Code: hooks and a status line.")
def claude(
    user: Annotated[bool, typer.Option("--user", help="In this user's settings [default].")] = False,
    project: Annotated[bool, typer.Option("--project", help="In .claude/settings.json of this directory.")] = False,
    local: Annotated[bool, typer.Option("--local", help="In .claude/settings.local.json of this directory.")] = False,
    guard: Annotated[bool, typer.Option("--guard", help="Deny edits and commands while a claim is lost.")] = False,
    no_statusline: Annotated[bool, typer.Option("--no-statusline", help="Leave the status line alone.")] = False,
    plugin: Annotated[bool, typer.Option("--plugin", help="Print how to add the plugin instead.")] = False,
    dry_run: DryRun = False,
    remove: Remove = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Claude Code: its sessions register, renew and end by themselves, and know what they hold.

    Adds hooks and a status line to Claude Code's settings, and leaves everything else in them as it is.
    """
    from claude_sessions_cli import as_text, process, render
    from claude_sessions_cli.claude_code import entries, settings_file

    output = render.Output("install claude", json, quiet)
    chosen = [scope for scope, given in zip(settings_file.SCOPES, (user, project, local), strict=True) if given]
    if len(chosen) > 1:
        raise UsageError("--user, --project and --local exclude each other", "name one of them")
    if plugin:
        others = {f"--{scope}": True for scope in chosen} | {
            "--guard": guard,
            "--no-statusline": no_statusline,
            "--dry-run": dry_run,
            "--remove": remove,
        }
        options.refuse_beside("--plugin", others)
        directory = str(settings_file.plugin_directory())
        output.result({"plugin": directory}, lambda: as_text.plugin_text(directory), whole=True)
        return
    if remove:
        options.refuse_beside("--remove", {"--guard": guard, "--no-statusline": no_statusline})
    path = settings_file.path_of(chosen[0] if chosen else "user", os.environ)
    choice = entries.Choice(
        process.this_program(sys.argv[0]), settings_file.known_events(os.environ), guard, not no_statusline
    )
    try:
        if remove:
            result = settings_file.remove(path, dry_run=dry_run)
        else:
            result = settings_file.install(path, choice, dry_run=dry_run)
    except OSError as error:
        raise SessionsError(f"cannot write {error.filename}: {error.strerror}", options.CANNOT_WRITE) from None
    if result.note:
        output.note(result.note)
    described = {} if remove else entries.describe(choice)
    output.result(asdict(result), lambda: as_text.merged_text(result, described), whole=True)


for name, kind in KINDS.items():
    _add_timer(name, kind)
