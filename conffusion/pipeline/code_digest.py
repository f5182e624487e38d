"""Digest of the numerical code behind each rule's script, so that an edit of it reruns what depends on it.

The code is found by a static walk: from the names that the script uses to their definitions in the package, and from
the names that these use on to others. Docstrings, comments, layout and annotations do not count.
"""

import ast
import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from conffusion.store.files import read_json, write_json

LOGGER = logging.getLogger(__name__)
PACKAGE = Path(__file__).resolve().parents[1]

# Cannot change a number, so edits of these rerun nothing: messages, logging, files as such, settings (rules have a
# digest of their values, the row of a method among them), the plan, and the processes around a job.
NEUTRAL = (
    "errors.py", "core/progress.py", "core/names.py", "core/layout.py", "core/logs.py", "config", "store", "cli",
    "contrib", "pipeline", "methods/registry.py",
)  # fmt: skip
COUNTED = ("pipeline/stages", "store/zarr_store.py", "store/writer.py")  # in spite of that
PASSED_THROUGH = ("pipeline/finetuning.py",)  # neutral, but it calls what is not
# What a script takes from its job, and which code that is.
OF_THE_JOB: Mapping[str, tuple[str, str]] = MappingProxyType({"job.device": ("core/device.py", "select_device")})
# Mentioned by a script and what it uses, but of no effect on its numbers.
WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "split_images": ("calibration", "methods", "tasks"),  # only checks that the splits are large enough
        # protocols say whether bounds are sorted; nothing is calibrated
        "extract_bounds": ("calibration", "metrics.py"),
        "predict_bounds": ("calibration", "metrics.py"),
    }
)

Symbol: TypeAlias = tuple[Path, str]  # a module, and a name defined at its top level
_WHOLE = "*"  # statements of a module that define no name


@dataclass(frozen=True)
class _Definition:
    """The statements that define one name.

    Attributes:
        text: Their syntax trees as text, with the modules outside the package behind the names that they use.
        uses: Names of the package that they use.
    """

    text: str
    uses: frozenset[Symbol]


class CodeIndex:
    """Definitions of a package, read when they are first asked for.

    Args:
        package: Its folder; None: this package.
    """

    def __init__(self, package: Path | None = None) -> None:
        self._package = package or PACKAGE
        self._modules: dict[Path, _Module] = {}

    def digest(self, script: str | Path) -> str:
        """Digest of a script and all that it may run, 16 hexadecimal digits."""
        script = Path(script)
        counted = {symbol for symbol in self._reached(script) if self._counts(symbol[0])}
        lines = sorted(f"{self._label(file)} {name} {self._define(file, name).text}" for file, name in counted)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def modules(self, script: str | Path) -> set[str]:
        """Modules of the package, as paths in it, with code that a script may run and that counts."""
        files = {file for file, _ in self._reached(Path(script))} - {Path(script)}
        return {self._label(file) for file in files if self._counts(file)}

    def _reached(self, script: Path) -> set[Symbol]:
        without_effect = WITHOUT_EFFECT.get(script.stem, ())
        seen: set[Symbol] = set()
        waiting = [(script, name) for name in self._module(script).statements]
        while waiting:
            symbol = waiting.pop()
            label = self._label(symbol[0])
            is_walked = self._counts(symbol[0]) or _is_below(label, PASSED_THROUGH)
            if symbol not in seen and is_walked and not _is_below(label, without_effect):
                seen.add(symbol)
                waiting += self._define(*symbol).uses
        return seen

    def _counts(self, file: Path) -> bool:
        label = self._label(file)
        return _is_below(label, COUNTED) or not _is_below(label, NEUTRAL)

    def _label(self, file: Path) -> str:
        return file.relative_to(self._package).as_posix() if file.is_relative_to(self._package) else file.name

    def _module(self, file: Path) -> "_Module":
        if file not in self._modules:
            self._modules[file] = _Module(file, self._package)
        return self._modules[file]

    def _define(self, file: Path, name: str) -> _Definition:
        module = self._module(file)
        if name not in module.defined:
            module.defined[name] = self._read_definition(module, name)
        return module.defined[name]

    def _read_definition(self, module: "_Module", name: str) -> _Definition:
        texts, uses, outside = [], set(), set()
        for statement in module.statements.get(name, []):
            texts.append(ast.dump(statement))
            for used in _names(statement):
                symbol = self._resolve(module, used)
                if symbol is not None:
                    uses.add(symbol)
                elif used.split(".")[0] in module.outside:
                    outside.add(module.outside[used.split(".")[0]])
        if module.statements.get(_WHOLE) and name != _WHOLE:
            uses.add((module.file, _WHOLE))
        return _Definition(" ".join([*texts, *sorted(outside)]), frozenset(uses))

    def _resolve(self, module: "_Module", used: str) -> Symbol | None:
        """Where a name, or `name.attribute`, that a module uses is defined; None outside the package."""
        if used in OF_THE_JOB:
            place, definition = OF_THE_JOB[used]
            return self._package / place, definition
        first, _, attribute = used.partition(".")
        if first in module.statements and first != _WHOLE:
            return module.file, first
        if first not in module.inside:
            return None
        file, name = module.inside[first]
        if name:
            return self._resolve(self._module(file), name)
        return (file, attribute) if attribute in self._module(file).statements else None


class _Module:
    """One file: its statements by the name that they define, and its imports.

    Attributes:
        file: Path.
        inside: Imported name to the module of the package and the name there; "" where it is that module itself.
        outside: Imported name to what it stands for outside the package, as text.
        defined: Definitions that were read before.
    """

    def __init__(self, file: Path, package: Path) -> None:
        self.file, self._package = file, package
        self.inside: dict[str, tuple[Path, str]] = {}
        self.outside: dict[str, str] = {}
        self.defined: dict[str, _Definition] = {}
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Import):
                self.outside |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                self._read_import(node)

    @cached_property
    def _tree(self) -> ast.Module:
        return _Stripped().visit(ast.parse(self.file.read_text()))

    @cached_property
    def statements(self) -> dict[str, list[ast.stmt]]:
        """Statements at the top of the module by the name that they define."""
        found: dict[str, list[ast.stmt]] = {}
        for statement in self._tree.body:
            for name in _defined_names(statement):
                found.setdefault(name, []).append(statement)
        return found

    def _read_import(self, node: ast.ImportFrom) -> None:
        parts = (node.module or "").split(".")
        for alias in node.names:
            name = alias.asname or alias.name
            if parts[0] != self._package.name:
                self.outside[name] = f"{node.module}.{alias.name}"
                continue
            submodule = _module_file(self._package, [*parts[1:], alias.name])
            if submodule.is_file():
                self.inside[name] = submodule, ""
            else:
                self.inside[name] = _module_file(self._package, parts[1:]), alias.name


class _Stripped(ast.NodeTransformer):
    """Takes docstrings and annotations out of a syntax tree."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        node.annotation = ast.Constant(None)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Imports for type checkers are never run."""
        is_typing = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if is_typing else self.generic_visit(node)


def _defined_names(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
    elif not isinstance(statement, ast.Import | ast.ImportFrom):
        yield _WHOLE


def _names(node: ast.AST) -> Iterator[str]:
    """Names that a statement mentions, and `name.attribute` where it takes an attribute of one."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            yield f"{part.value.id}.{part.attr}"


def _module_file(package: Path, parts: list[str]) -> Path:
    path = package.joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_below(label: str, places: tuple[str, ...]) -> bool:
    return any(label == place or label.startswith(f"{place}/") for place in places)


def code_versions(scripts: str | Path, record: str | Path, *, keep: bool) -> dict[str, str]:
    """Digest of the code behind every rule with a script, by the rule's name, as rules take it for a parameter.

    Args:
        scripts: Folder of the scripts, each called as its rule.
        record: Digests that the results were made with, as `write_code_versions` left them.
        keep: Whether results of older code are kept: recorded digests then stand in for today's, with a warning.
    """
    index = CodeIndex()
    current = {script.stem: index.digest(script) for script in sorted(Path(scripts).glob("*.py"))}
    if not keep or not Path(record).is_file():
        return current
    older = {rule: digest for rule, digest in read_json(record).items() if rule in current}
    changed = [rule for rule, digest in older.items() if digest != current[rule]]
    if changed:
        LOGGER.warning("results of older code are kept (ignore_code_changes) for: %s", ", ".join(changed))
    return {**current, **older}


def write_code_versions(record: str | Path, versions: Mapping[str, str]) -> None:
    """Record the digests that a run starts with."""
    write_json(record, dict(versions))
