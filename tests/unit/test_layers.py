"""The one-way imports of the package, in the order of CONTRIBUTING's list of modules, and who may import what."""

from __future__ import annotations

import ast
import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PACKAGE = CHECKOUT / "claude_sessions_cli"
ONLY_IMPORTER = {"psycopg": "database", "rich": "render"}


def _read_layers() -> list[set[str]]:
    text = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = text.partition("\nclaude_sessions_cli/\n")[2].partition("\ntests/")[0]
    lines = [re.match(r"  ((?:\w+(?:\.py|/) ?)+) ", line) for line in listed.splitlines()]
    layers = [set(re.findall(r"\w+(?=\.py|/)", line[1])) - {"shell"} for line in lines if line]
    return [{"__init__"}, *layers, {"__main__"}]


LAYERS = _read_layers()


def _modules() -> dict[str, list[ast.stmt]]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE)
        name = "commands" if len(relative.parts) > 1 else relative.stem
        found[f"{name}:{relative}"] = ast.parse(path.read_text()).body
    return found


def _imports(body: list[ast.stmt]) -> set[str]:
    names = set()
    for node in (found for statement in body for found in ast.walk(statement)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _layer(module: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if module in layer)


def _without_type_checking(body: list[ast.stmt]) -> list[ast.stmt]:
    return [node for node in body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]


def test_a_module_imports_only_modules_below_it() -> None:
    wrong = []
    for key, body in _modules().items():
        importer = key.partition(":")[0]
        for name in _imports(_without_type_checking(body)):
            if not name.startswith("claude_sessions_cli."):
                continue
            imported = name.split(".")[1]
            imported = imported if any(imported in layer for layer in LAYERS) else "__init__"
            same = importer == imported == "commands"
            if _layer(imported) >= _layer(importer) and not same:
                wrong.append(f"{key} imports {imported}")
    assert not wrong


def test_every_module_has_its_layer() -> None:
    names = {key.partition(":")[0] for key in _modules()}
    assert names == set().union(*LAYERS)


def test_each_driver_has_one_importer() -> None:
    for key, body in _modules().items():
        importer = key.partition(":")[0]
        for name in _imports(body):
            owner = ONLY_IMPORTER.get(name.split(".")[0])
            assert owner in (None, importer), f"{key} imports {name}"
