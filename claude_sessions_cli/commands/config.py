"""The commands `config get`, `config set`, `config unset` and `config path`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from claude_sessions_cli import completion, config_file, invocation, options, render, settings
from claude_sessions_cli.text import mask_passwords

app = options.new_app("Show and change the configuration.")

complete_keys = completion.chooser(lambda _: settings.KEYS)

Key = Annotated[
    str, typer.Argument(metavar="KEY", help="dsn, stale_after or heartbeat_every.", autocompletion=complete_keys)
]


@app.command()
def get(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="Only this key.", autocompletion=complete_keys)
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show the values in force, whatever sets them.

    Passwords are masked.
    """
    if key is not None:
        config_file.check_key(key)
    found = invocation.load_settings(None)
    values = {
        "dsn": "embedded" if found.dsn is None else mask_passwords(found.dsn),
        "stale_after": f"{found.stale_after:g}s",
        "heartbeat_every": f"{found.heartbeat_every:g}s",
    }
    lines = [values[key]] if key else [f"{name} = {value}" for name, value in values.items()]
    data = {"values": {key: values[key]} if key else values}
    render.Output("config get", json, quiet).result(data, lambda: lines, whole=True)


@app.command("set")
def set_(
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="Its value.")],
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Set a key in config.toml.

    The rest of the file stays as it is.
    """
    _change("config set", key, value, json, quiet)


@app.command()
def unset(key: Key, json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Remove a key from config.toml."""
    _change("config unset", key, None, json, quiet)


def _change(command: str, key: str, value: str | None, json: bool, quiet: bool) -> None:
    output = render.Output(command, json, quiet)
    path, changed = config_file.change(os.environ, key, value)
    word = ("removed from" if value is None else "set in") if changed else "unchanged in"
    output.result({"file": str(path), "changed": changed}, lambda: [f"{key}: {word} {path}"])
    if value is not None and key == "dsn" and mask_passwords(value) != value:
        output.note("the file holds a password: ~/.pgpass is the usual place for one")


@app.command()
def path(json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Print the path of config.toml."""
    found = settings.config_path(os.environ)
    render.Output("config path", json, quiet).result({"file": str(found)}, lambda: [str(found)], whole=True)
