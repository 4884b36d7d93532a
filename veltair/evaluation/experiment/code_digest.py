"""Which code a step runs through, and one digest of it: another digest means that its results are old.

Code is followed definition by definition: from a function to the names that stand in its text, to what these
are in its module, and through imports on to other modules of ours. A name counts wherever it stands, in a
comment too, so that rather too much is followed than too little. A definition that names a C file depends on
it and on what that includes; one that names a module of ours as text, to start it as a process, on that.
What only a configuration names, such as a policy, is followed from a start of its own.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# The folder that our packages lie in.
ROOT = Path(__file__).parents[3]
PACKAGES = ("veltair", "baselines", "models")
# What makes a configuration of files: each step has the values that it reads as a parameter.
PASSED_AS_VALUES = ("veltair.config.load", "veltair.config.checks", "veltair.config.replaced")

_NAME = re.compile(r"[^\W\d]\w*")
_C_FILE = re.compile(r"""["']([\w./-]+\.[ch])["']""")
_INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
_MODULE_TEXT = re.compile(r"""["'](veltair(?:\.\w+)+)(?::(\w+))?["']""")
_MAIN, _ALL = "__main__", "*"

# A module, and what of it; "" is all of it.
Part = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Module:
    """The text of each definition of a module, what each name is imported from, and all other statements."""

    texts: Mapping[str, str]
    imports: Mapping[str, set[Part]]
    body: str
    folder: Path

    def texts_of(self, name: str) -> dict[str, str]:
        """Return what depends on whether a definition is used: itself, and the other statements."""
        if not name:
            return {**self.texts, "": self.body}
        return {"": self.body} | ({name: self.texts[name]} if name in self.texts else {})


@dataclass(frozen=True, slots=True)
class CodeGraph:
    """The definitions below `root`, of `PACKAGES` only, and of all modules below the folder `own`.

    `own` is where a user's policies lie.
    """

    root: Path = ROOT
    own: Path | None = None
    _modules: dict[str, _Module | None] = field(default_factory=dict)
    _c_files: dict[str, list[Path]] = field(default_factory=dict)

    def digest(self, starts: Iterable[str]) -> str:
        """Return the SHA-256 digest of all code that starts run through: `module`, or `module:name`.

        Raises LookupError for a start that is not there.
        """
        found = hashlib.sha256()
        for name, text in sorted(self.parts(starts).items()):
            found.update(f"{name}\0{text}\0".encode())
        return found.hexdigest()

    def parts(self, starts: Iterable[str]) -> dict[str, str]:
        """Return the text of each definition, as `module:name`, and of each C file that starts run through.

        Raises LookupError for a start that is not there.
        """
        todo: list[Part] = []
        for start in starts:
            module, _, name = start.partition(":")
            known = self._module(module)
            if known is None or (name and name not in {*known.texts, *known.imports}):
                raise LookupError(f"there is no {start}; name a module or a definition that is there")
            todo += self._resolved(module, name)
        found: dict[str, str] = {}
        while todo:
            module, name = todo.pop()
            known = self._module(module)
            assert known is not None
            for each, text in known.texts_of(name).items():
                if (key := f"{module}:{each}") not in found:
                    found[key] = text
                    todo += self._follow(module, known, text)
                    found |= self._c_code(text, known.folder)
        return found

    def _follow(self, module: str, known: _Module, text: str) -> Iterator[Part]:
        """Yield what a text of a module refers to."""
        for name in {_ALL, *_NAME.findall(text)}:
            if name in known.texts:
                yield module, name
            for source, part in known.imports.get(name, ()):
                yield from self._resolved(source, part)
        for source, part in _MODULE_TEXT.findall(text):
            yield from self._resolved(source, part)

    def _resolved(self, source: str, part: str) -> Iterator[Part]:
        """Yield what an import means, also through modules that only pass it on, and its packages."""
        if part == _ALL:
            part = ""
        elif part and self._module(f"{source}.{part}") is not None:
            source, part = f"{source}.{part}", ""
        known = self._module(source)
        if known is None or source in PASSED_AS_VALUES:
            return
        yield source, part
        parts = source.split(".")
        for depth in range(1, len(parts)):
            if self._module(package := ".".join(parts[:depth])) is not None:
                yield package, "__init__"
        for passed in known.imports.get(part, ()):
            yield from self._resolved(*passed)

    def _module(self, name: str) -> _Module | None:
        """Return a module of ours or of the user's; None for any other."""
        if name not in self._modules:
            path = self._path(name)
            self._modules[name] = None if path is None else _read(path, name)
        return self._modules[name]

    def _path(self, name: str) -> Path | None:
        parts = name.split(".")
        folders = [self.root] if parts[0] in PACKAGES else []
        folders += [] if self.own is None else [self.own]
        for folder in folders:
            path = folder.joinpath(*parts)
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if file.is_file():
                    return file
        return None

    def _c_code(self, text: str, folder: Path) -> dict[str, str]:
        """Return the C files that a text names, and those that they include, by path below the root."""
        found: dict[str, str] = {}
        todo = [(folder, name) for name in _C_FILE.findall(text)]
        while todo:
            for path in self._c_paths(*todo.pop()):
                if (key := path.relative_to(self.root).as_posix()) not in found:
                    found[key] = path.read_text(encoding="utf-8")
                    todo += [(path.parent, name) for name in _INCLUDE.findall(found[key])]
        return found

    def _c_paths(self, folder: Path, name: str) -> list[Path]:
        """Return the file beside, else all of that name, for a compiler may be told other folders."""
        if not self._c_files:
            for path in sorted((self.root / "veltair").glob("**/*.[ch]")):
                self._c_files.setdefault(path.name, []).append(path)
        same = self._c_files.get(Path(name).name, [])
        return [path for path in same if path == folder / name] or same


def _read(path: Path, name: str) -> _Module:
    """Return a module's statements: definitions, imports (also those within others), and the rest."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    texts: dict[str, str] = {}
    imports: dict[str, set[Part]] = {}
    body = ""
    for node in ast.parse(text).body:
        own = "".join(lines[_first_line(node) - 1 : node.end_lineno])
        if "import" in own:
            for part in ast.walk(node):
                _add_imports(imports, part, package)
        if defined := _defined(node):
            texts |= {each: texts.get(each, "") + own for each in defined}
        elif not isinstance(node, ast.Import | ast.ImportFrom) and not _is_main(node):
            body += own
    return _Module(texts, imports, body, path.parent)


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])


def _defined(node: ast.stmt) -> list[str]:
    """Return the names that a statement of a module defines; none for one of several parts."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets += [node.target] if isinstance(node, ast.AnnAssign | ast.AugAssign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


def _is_main(node: ast.stmt) -> bool:
    """Return whether a statement runs only where its module is started as a program."""
    return isinstance(node, ast.If) and _MAIN in ast.dump(node.test)


def _add_imports(imports: dict[str, set[Part]], node: ast.AST, package: str) -> None:
    """Add the names that an import defines, each with its module and what of it."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            imports.setdefault(alias.asname or alias.name.partition(".")[0], set()).add((alias.name, ""))
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: 1 - node.level or None] if node.level else []
        source = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            imports.setdefault(alias.asname or alias.name, set()).add((source, alias.name))
