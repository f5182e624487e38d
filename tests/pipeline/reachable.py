"""Which modules of the package hold the code that a script runs: a static walk from name to name."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "conffusion"

Symbol = tuple[Path, str]


def modules_behind(script: Path) -> set[str]:
    """Modules, as paths in the package, with a definition that the script may use, itself or through others."""
    seen: set[Symbol] = set()
    waiting = [symbol for statement in _parse(script).body for symbol in _used(script, statement)]
    while waiting:
        symbol = waiting.pop()
        if symbol in seen:
            continue
        seen.add(symbol)
        file, name = symbol
        for node in _definitions(file).get(name, []):
            waiting += _used(file, node)
    return {file.relative_to(PACKAGE).as_posix() for file, _ in seen}


@cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@cache
def _definitions(file: Path) -> dict[str, list[ast.stmt]]:
    """Statements at the top of a module that define each name."""
    found: dict[str, list[ast.stmt]] = {}
    for statement in _parse(file).body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found.setdefault(statement.name, []).append(statement)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                for name in (node.id for node in ast.walk(target) if isinstance(node, ast.Name)):
                    found.setdefault(name, []).append(statement)
    return found


@cache
def _imports(file: Path) -> dict[str, Symbol]:
    """Names imported from the package, inside functions too, and where they are defined."""
    found = {}
    for node in ast.walk(_parse(file)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "conffusion":
            source = _module_file(str(node.module))
            for alias in node.names:
                symbol = _defined_at(source, alias.name)
                if symbol is not None:
                    found[alias.asname or alias.name] = symbol
    return found


def _module_file(name: str) -> Path:
    path = ROOT.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _defined_at(file: Path, name: str) -> Symbol | None:
    """Where a name that can be imported from `file` is defined, through re-exports; None for a submodule."""
    if name in _definitions(file):
        return file, name
    return _imports(file).get(name)


def _used(file: Path, node: ast.AST) -> Iterator[Symbol]:
    """Symbols of the package that a piece of a module mentions."""
    imports, definitions = _imports(file), _definitions(file)
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            if part.id in imports:
                yield imports[part.id]
            elif part.id in definitions and file.is_relative_to(PACKAGE):
                yield file, part.id
