"""The commands `schema apply`, `schema check`, `schema print`, `schema describe` and `schema json`."""

from __future__ import annotations

from dataclasses import asdict, replace
from json import loads
from pathlib import Path
from typing import Annotated

import typer

from claude_sessions_cli import as_text, completion, invocation, options, render
from claude_sessions_cli.errors import SchemaMismatch

app = options.new_app("Create and check the table.")


def _optional_files(_: typer.Context) -> list[str]:
    from claude_sessions_cli.operations import schema

    return [path.stem for path in schema.optional_files()]


@app.command("apply")
def apply_(
    grant: Annotated[
        str | None, typer.Option("--grant", metavar="ROLE", help="Also grant this role the use of the table.")
    ] = None,
    optional: Annotated[
        list[str] | None,
        typer.Option(
            "--optional",
            metavar="NAME",
            help="Also apply this optional file. Repeatable.",
            autocompletion=completion.chooser(_optional_files),
        ),
    ] = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Create the missing parts of the table.

    Safe to repeat, and while sessions work.
    """
    from claude_sessions_cli.operations import schema

    output = render.Output("schema apply", json, quiet)
    with invocation.open_database(invocation.load_settings(dsn), output) as database:
        applied = schema.apply(database, grant=grant, optional=optional or ())
    data = {"files": [asdict(file) for file in applied], "granted": grant}
    output.result(data, lambda: as_text.applied_text(applied, grant))


@app.command()
def check(dsn: options.Dsn = None, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Compare the table with the shipped DDL.

    Exit 7 if an object is missing or changed. Names the roles that may write.
    """
    from claude_sessions_cli.operations import mend, schema

    output = render.Output("schema check", json, quiet)
    with invocation.open_database(invocation.load_settings(dsn), output) as database:
        found = schema.inspect(database)
    wrong = [difference for difference in found.differences if difference.difference != "extra"]
    hint = mend.hint(difference.mend for difference in wrong)
    found = replace(
        found,
        differences=[replace(one, mend=options.repeat_dsn(one.mend, dsn)) for one in found.differences],
    )
    lines = as_text.inspection_lines(found)
    data = asdict(found)
    if wrong:
        if not json:
            output.result(data, lambda: lines)
        raise SchemaMismatch(f"the table is not as shipped: {len(wrong)} missing or changed", hint, data)
    output.result(data, lambda: [*lines, as_text.shipped_line(found)])


@app.command("print")
def print_(json: options.Json = False) -> None:
    """Print the DDL, for psql or a migration tool."""
    from claude_sessions_cli.operations import schema

    text = "\n".join(path.read_text(encoding="utf-8") for path in schema.ddl_files())
    render.Output("schema print", json).result({"sql": text}, text.splitlines, whole=True)


@app.command("json")
def json_(json: options.Json = False) -> None:
    """Print the JSON Schema of all answers."""
    text = (Path(render.__file__).parent / "answers.schema.json").read_text(encoding="utf-8")
    render.Output("schema json", json).result({"schema": loads(text)}, text.splitlines, whole=True)


@app.command()
def describe(
    application: Annotated[str | None, typer.Option("--application", metavar="TEXT", help="The application.")] = None,
    database: Annotated[
        str | None, typer.Option("--database", metavar="TEXT", help="The database, if not by its name.")
    ] = None,
    repository: Annotated[str | None, typer.Option("--repository", metavar="PATH", help="The repository.")] = None,
    purpose: Annotated[str | None, typer.Option("--purpose", metavar="TEXT", help="What the table is for.")] = None,
    overview: Annotated[
        str | None, typer.Option("--overview", metavar="LINK", help="A link at the end, to all tables.")
    ] = None,
    dsn: options.Dsn = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print the live table as a Markdown reference."""
    from claude_sessions_cli.operations import describe as operation

    output = render.Output("schema describe", json, quiet)
    title = operation.Title(application, database, repository, purpose, overview)
    with invocation.open_database(invocation.load_settings(dsn), output) as opened:
        text = operation.describe(opened, title)
    output.result({"markdown": text}, text.splitlines, whole=True)
