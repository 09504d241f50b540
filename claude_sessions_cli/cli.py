"""The program: argv to a command, and every error to a line or an envelope and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import redirect_stderr, suppress
from importlib import import_module
from typing import Any, TextIO, cast

import typer
from typer.main import get_command

from claude_sessions_cli import __version__, completion, manual, options, settings
from claude_sessions_cli.errors import EXIT_INTERRUPTED, REPORT, SessionsError, UsageError
from claude_sessions_cli.manual import SECTIONS
from claude_sessions_cli.text import mask_passwords

HIDDEN = ("upkeep",)
COMMANDS = (*manual.COMMANDS, *HIDDEN)
GROUPS = ("install", "config", "schema", "db")
# A one-line help must fit 80 columns uncut.
HELP_LIMIT = 60
# typer does not name this class, and before 0.26 it was click's.
_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])


class LazyGroup(options.Group):
    """Commands by name, each imported only when it is called or listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        command = get_command(import_module(f"claude_sessions_cli.commands.{cmd_name.replace('-', '_')}").app)
        command.name = cmd_name
        for name, page in (*getattr(command, "commands", {}).items(), ("", command)):
            page.epilog = manual.epilog(f"{cmd_name} {name}".strip())
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands in their sections."""
        width = max(map(len, COMMANDS))
        for section, names in SECTIONS.items():
            with formatter.section(section):
                commands = [(name, self.get_command(ctx, name)) for name in names]
                # Padded alike, so that all sections have one column of texts.
                rows = [(name.ljust(width), command.get_short_help_str(HELP_LIMIT)) for name, command in commands]
                formatter.write_dl(rows)
        with formatter.section("Topics, for claude-sessions help TOPIC"):
            formatter.write_text(", ".join(manual.topics()))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept options that every command has before the command's name too."""
        leading: list[str] = []
        rest = list(args)
        while rest and rest[0].partition("=")[0] in options.LEADING:
            name, equals, _ = rest[0].partition("=")
            words = 2 if options.LEADING[name] and not equals else 1
            leading, rest = leading + rest[:words], rest[words:]
        if rest and rest[0].partition("=")[0] in completion.OPTIONS and not ctx.resilient_parsing:
            # typer asks for it without care.
            settings.home_directory(os.environ)
            rest = _of_shell(rest)
        if leading and not rest:
            raise UsageError("Missing command", options.see_help(ctx))
        depth = 2 if rest[:1] and rest[0] in GROUPS else 1
        # Without a command, its absence is the error to report.
        return super().parse_args(ctx, [*rest[:depth], *(leading if len(rest) >= depth else ()), *rest[depth:]])


def _of_shell(words: list[str]) -> list[str]:
    """Do what a completion option with a shell's name asks for, or return the line that does.

    Typer reads no name, and takes the running shell.
    """
    from claude_sessions_cli.shell.hooks import SHELLS

    option, equals, value = words[0].partition("=")
    named = [value, *words[1:]] if equals else words[1:]
    if not named:
        completion.require_shell()
        return words
    options.check_words(option, named, SHELLS)
    if len(named) > 1:
        raise UsageError(f"{option} takes one shell", f"leave the others out: claude-sessions {option} {named[0]}")
    if option != completion.INSTALL:
        return ["completion", *named]
    _show(f"{named[0]} completion installed in {completion.install(named[0])}; it takes effect in a new terminal")
    raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    add_completion=True,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings=options.CONTEXT,
    pretty_exceptions_enable=False,
)


def _show(text: str) -> None:
    from claude_sessions_cli.render import Output

    Output("").result({}, text.splitlines)


def _print_version(value: bool) -> None:
    if value:
        _show(f"claude-sessions {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Claim work items, so that no two sessions work on the same one."""


def main() -> None:
    """Run the program and exit."""
    _open_streams()
    if completion.VARIABLE in os.environ:
        code = _complete(sys.argv[1:])
        sys.stdout.flush()
        # A person waits with the Tab key down, and Python's clean-up takes time.
        os._exit(code)
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        # The error is printed already; Python would print it again, and exit with 120.
        _silence(sys.stdout)
    sys.exit(code)


def _silence(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _open_streams() -> None:
    """Open /dev/null for streams that the caller closed: otherwise the database's socket would get their numbers."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        name, mode = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))[number]
        setattr(sys, name, open(number, mode))  # noqa: SIM115, PTH123
    os.close(number)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A codebase may have a name that the locale cannot write.
        sys.stdout.reconfigure(errors="backslashreplace")


def run(argv: list[str]) -> int:
    """Run a command line and return its exit code; an error prints one line or one JSON object."""
    try:
        try:
            _check_encoding(argv)
            code = get_command(app).main(argv, prog_name="claude-sessions", standalone_mode=False)
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except _UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                _show(str(error))
                return UsageError.exit_code
            raise options.usage_error(error, _command(argv)) from None
        except (BrokenPipeError, SystemExit):  # typer exits on a broken pipe itself
            # The reader has closed the pipe, and the command is done; Python must not complain at exit.
            _silence(sys.stdout)
            return 0
        except (KeyboardInterrupt, typer.Abort):
            return EXIT_INTERRUPTED
    except Exception as error:
        return _fail(argv, error)


def _complete(argv: list[str]) -> int:
    """Print completions for a shell: words, or nothing if it fails."""
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # noqa: PTH123
        try:
            get_command(app).main(argv, prog_name="claude-sessions", standalone_mode=False)
        except SystemExit as answered:
            return answered.code if isinstance(answered.code, int) else 0
        except BaseException:
            return 1
    return 0


def _fail(argv: list[str], error: Exception) -> int:
    from claude_sessions_cli.render import CannotWrite, Output

    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        # Typer itself prints the help.
        error = CannotWrite(error)
    if not isinstance(error, SessionsError):
        if os.environ.get("CLAUDE_SESSIONS_DEBUG"):
            Output("").traceback(error)
        error = SessionsError(
            f"unforeseen: {type(error).__name__}: {error}",
            REPORT,
        )
    error.hint = options.repeat_in(error.hint, _own_words(argv))
    # If this cannot be printed either, the exit code remains.
    with suppress(CannotWrite):
        Output(_command(argv), json="--json" in _own_words(argv)).failure(error)
    return error.exit_code


def _command(argv: list[str]) -> str:
    """Return the command of a command line, as its answers name it."""
    named = [word for word in _own_words(argv) if not word.startswith("-")]
    command = next((word for word in named if word in COMMANDS), "")
    return mask_passwords(" ".join(named[named.index(command) :][:2])) if command in GROUPS else command


def _own_words(argv: list[str]) -> list[str]:
    return argv[: argv.index("--")] if "--" in argv else argv


def _check_encoding(argv: list[str]) -> None:
    for number, word in enumerate(_own_words(argv), 1):
        try:
            word.encode()
        except UnicodeEncodeError:
            # The argument is not shown: it may be a DSN with a password.
            raise UsageError(f"argument {number} is not UTF-8", "write it in UTF-8") from None
