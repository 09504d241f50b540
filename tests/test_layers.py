"""The one-way imports of the package, in the order of CONTRIBUTING's tree, and the only importers of drivers."""

from __future__ import annotations

import ast
import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "claude_sessions_cli"
IMPORTERS = {
    "psycopg": {"adapters", "failures", "connection", "transaction", "diagnosis", "database"},
    "rich": {"render", "screen"},
}


def _read_layers() -> list[set[str]]:
    """Return the lines of CONTRIBUTING's tree in order, each as the modules that it names, such as `operations/claim`.

    A folder stands for its `__init__`, and for those of its modules that have no lines of their own.
    """
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text.partition("\nclaude_sessions_cli/\n")[2].partition("\ntests/")[0]
    layers, folder = [{"__init__"}], ""
    for line in tree.splitlines():
        found = re.match(r"( +)((?:\w+(?:\.py|/) ?)+)(?: |$)", line)
        if not found:
            continue  # the description goes on
        names = re.findall(r"\w+(?=\.py)", found[2])
        if len(found[1]) == 2:
            folder = "" if names else found[2].strip()
        layers.append({folder + name for name in names} or {folder})
    return [*layers, {"__main__"}]


LAYERS = _read_layers()


def _layer(module: str) -> int | None:
    """Return the number of a module's line; of a module without one, that of its folder."""
    for name in (module, module.rpartition("/")[0] + "/"):
        for number, layer in enumerate(LAYERS):
            if name in layer:
                return number
    return None


def _modules() -> dict[str, list[ast.stmt]]:
    files = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
    return {name.replace("/__init__", "/"): ast.parse(path.read_text()).body for name, path in files.items()}


MODULES = _modules()


def _imports(body: list[ast.stmt]) -> set[str]:
    names = set()
    for node in (found for statement in body for found in ast.walk(statement)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"line {node.lineno} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _own_module(name: str) -> str | None:
    """Return the module of this package that `name` is, or is a part of."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return None
    candidates = ("/".join(parts[1:end]) + folder for end in range(len(parts), 1, -1) for folder in ("", "/"))
    return next((path for path in candidates if path in MODULES), "__init__")


def _without_type_checking(body: list[ast.stmt]) -> list[ast.stmt]:
    kept: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            kept += node.orelse
        else:
            kept.append(node)
    return kept


def test_module_imports_only_modules_above_it_in_the_tree() -> None:
    wrong = []
    for importer, body in MODULES.items():
        for imported in filter(None, map(_own_module, _imports(_without_type_checking(body)))):
            if (_layer(imported) or 0) >= (_layer(importer) or 0):
                wrong.append(f"{importer} imports {imported}")
    assert not wrong


def test_tree_names_every_module() -> None:
    assert [module for module in MODULES if _layer(module) is None] == []


def test_tree_names_no_missing_module() -> None:
    folders = {path.name + "/" for path in PACKAGE.iterdir() if path.is_dir()}
    assert set().union(*LAYERS) - set(MODULES) - folders == set()


def test_each_driver_has_its_importers() -> None:
    wrong = []
    for importer, body in MODULES.items():
        for name in _imports(body):
            if importer not in IMPORTERS.get(name.split(".")[0], {importer}):
                wrong.append(f"{importer} imports {name}")
    assert not wrong


def test_only_cli_imports_by_name() -> None:
    assert [module for module, body in MODULES.items() if "importlib.import_module" in _imports(body)] == ["cli"]


def _top_level(body: list[ast.stmt]) -> list[ast.stmt]:
    return [node for node in _without_type_checking(body) if isinstance(node, (ast.Import, ast.ImportFrom))]


def _loaded_by(command: str) -> set[str]:
    """Return the modules that a command may load: those that it names anywhere, and what these import at once."""
    found: set[str] = set()
    left = [*filter(None, map(_own_module, _imports(_without_type_checking(MODULES[f"commands/{command}"]))))]
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += filter(None, map(_own_module, _imports(_top_level(MODULES[module]))))
    return found


def test_frequent_commands_load_no_rare_operations() -> None:
    rare = {f"operations/{name}" for name in ("doctor", "schema", "mend", "describe", "history", "timeline")}
    for command in ("claim", "heartbeat", "list", "release", "check", "prompt"):
        assert not _loaded_by(command) & rare, command
