"""What code a number rests on: a hash of the syntax trees of the files that decide it, in four named parts.

`algorithm`, `dataset`, `model`: the plugin's module, and what it imports of its own package and of metaleaf, and what
these import. `harness`: metaleaf's own files that a run imports, but for those that only show, store or describe
(UNDECIDING). What `harness` has is not in `algorithm` and `model`, too.

Comments, docstrings, imports for type checkers and formatting are not in a tree, so they may change; nor do positions,
names of folders and the version of Python count. Nothing is imported for this. A file is read once for as long as its
module stays imported: the hash is that of the code which runs, not of what was written over it since.
"""

import ast
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
import textwrap
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any, Literal, NamedTuple

from metaleaf import registry
from metaleaf.config.config import RunConfig
from metaleaf.dataset import Dataset, parts_of

PARTS = ("algorithm", "dataset", "model", "harness")

Sources = dict[str, str | None]
"""A SHA-256 for each of PARTS, hexadecimal; None where it is not known."""

Choice = Literal["refuse", "again", "keep"]
"""What to do with what other code has made: refuse it with a sentence, make it again, or take it as it is."""

MIXED = "mixed"
"""In place of a hash: several things were made by different code."""

REMEDY = "add --again to make it again, or --keep to take it as it is (from Python: stale='again' or 'keep')."

MODELS = "metaleaf.models"

UNDECIDING = frozenset(
    {
        "metaleaf",  # only its version
        "metaleaf.config",  # a docstring, as the next
        "metaleaf.terminal",
        "metaleaf.engine.allocator",
        "metaleaf.config.config",  # makes configurations, which a record has
        "metaleaf.dataset",  # only types, and the order of a partition's stages, which a record has
        "metaleaf.errors",
        "metaleaf.data.manifest",  # takes or refuses prepared data, whose hash a record has
        "metaleaf.terminal.progress",
        "metaleaf.config.provenance",
        "metaleaf.raw",
        "metaleaf.registry",
        "metaleaf.runs.saved",
        "metaleaf.config.sources",
        "metaleaf.config.systems",  # makes systems, whose own files count where there are some
        "metaleaf.runs.store",
        "metaleaf.files.verified",
        "metaleaf.files.whole_files",
    }
)
"""Modules of metaleaf that decide no number, though what decides imports them."""


class _Module(NamedTuple):
    """What counts of a module: its file, SHA-256 of that's tree, and the names of all that it may import."""

    path: Path
    digest: str
    imports: frozenset[str]


class Making(NamedTuple):
    """What a run's numbers are made from: the hash of the data, and the sources."""

    data_hash: str
    sources: Sources

    def unreadable(self) -> str:
        """How it may be made otherwise, and nobody could tell: by a class that was typed into a shell; else empty."""
        parts = [part for part in ("algorithm", "model") if self.sources.get(part) is None]
        return f"by code that may have changed since, as it cannot be read here ({', '.join(parts)})" if parts else ""

    def unlike(self, data_hash: str | None, sources: Mapping[str, str | None] | None) -> str:
        """How something that was made from those is known to be made otherwise; empty if it is not."""
        data = ["from other data than what is prepared now"] if data_hash not in (None, self.data_hash) else []
        parts = differing(sources or {}, self.sources)
        code = [f"by other code than what is here ({', '.join(parts)})"] if parts else []
        return " and ".join([*data, *code])


def of_run(config: RunConfig, root: str, about: Mapping[str, Any]) -> Sources:
    """The sources of a run whose class is in the module `root`, on prepared data with that manifest."""
    systems = ["metaleaf.systems.fleet"] if config.systems else []
    harness = _closure([root, *systems], beyond={*UNDECIDING, MODELS})
    beyond = {*UNDECIDING, *harness}
    model = registry.plugin("models", config.model_name)
    algorithms = [registry.plugin("algorithms", name) for name in config.algorithms()]
    packages = [registry.distribution("algorithms", name) for name in config.algorithms()]
    return {
        "algorithm": _part(algorithms, beyond, packages),
        "dataset": about.get("source_hash"),
        "model": _part([model], beyond, [registry.distribution("models", config.model_name)], [MODELS]),
        "harness": _digest(harness),
    }


def of_dataset(name: str, dataset: Dataset) -> str | None:
    """The source of a dataset plugin, with that of its partition: a manifest's `source_hash`."""
    return _part([type(part) for part in parts_of(dataset)], UNDECIDING, [registry.distribution("datasets", name)])


def differing(before: Mapping[str, str | None], now: Mapping[str, str | None]) -> list[str]:
    """The parts in which two sources are known to differ."""
    both = ((part, before.get(part), now.get(part)) for part in PARTS)
    return [part for part, one, other in both if one and other and one != other]


def common(several: Iterable[Mapping[str, str | None]]) -> Sources:
    """For each part what all of these have; MIXED if they are known to differ, None if one does not say."""
    found: Sources = {}
    several = list(several)
    for part in PARTS:
        values = {sources.get(part) for sources in several}
        found[part] = None if None in values else MIXED if len(values) > 1 else values.pop()
    return found


def _part(
    classes: Sequence[type],
    beyond: Container[str],
    packages: Sequence[Distribution | None] = (),
    also: Sequence[str] = (),
) -> str | None:
    """The digest of plugin classes and of the modules `also`; None if the source of one is not known."""
    files = [file for package in packages if package for file in package.files or ()]
    typed = {cls.__qualname__: _typed(cls) for cls in classes if cls.__module__ == "__main__"}
    roots = [*(cls.__module__ for cls in classes if cls.__module__ != "__main__"), *also]
    found = _closure(roots, beyond, {file.parts[0].removesuffix(".py") for file in files})
    whole = {**found, **{name: digest for name, digest in typed.items() if digest}}
    return _digest(whole) if all(part in whole for part in (*roots, *typed)) else None


def _typed(thing: Any, seen: set[str] | None = None) -> str | None:
    """The digest of a class or function of the script or notebook that runs, and of what it names there.

    None if its text cannot be read, as of what was typed into a shell. The whole file does not count: a script changes
    with every experiment.
    """
    seen = seen if seen is not None else set()
    seen.add(thing.__qualname__)
    try:
        trees = [ast.parse(textwrap.dedent(text)) for text in _texts(thing)]
    except (OSError, TypeError, SyntaxError):
        return None
    text = _Tree("")
    for tree in trees:
        text.visit(tree)
    parts: list[str | None] = ["".join(text.text)]
    names = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    around = _around(thing)
    parts += [_meant(name, around[name], seen) for name in sorted(names & around.keys())]
    if None in parts:
        return None
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def _around(thing: Any) -> Mapping[str, Any]:
    """What the names in a function, or in a class's methods, stand for."""
    code = (value for value in [thing, *vars(thing).values()] if inspect.isfunction(value))
    own = [function for function in map(inspect.unwrap, code) if function.__module__ == "__main__"]
    return own[0].__globals__ if own else vars(sys.modules["__main__"])


def _texts(thing: Any) -> list[str]:
    """The source of a function, or of a class: of its methods where Python does not know where the class begins."""
    try:
        return [inspect.getsource(thing)]
    except (OSError, TypeError):
        if not isinstance(thing, type):
            raise
    own = vars(thing).items()
    functions = [inspect.unwrap(value) for _, value in own if inspect.isfunction(value)]
    methods = [one for one in functions if one.__code__.co_filename != "<string>"]  # a dataclass has made the others
    values = [f"{name} = {value!r}" for name, value in own if isinstance(value, _SIMPLE) and not name.startswith("__")]
    if not methods:
        raise OSError("no method says where the class comes from")
    head = f"class {thing.__name__}({', '.join(base.__name__ for base in thing.__bases__)}): pass"
    return [head, *map(inspect.getsource, methods), *values]


_SIMPLE = (int, float, str, bool, tuple, type(None))


def _meant(name: str, value: Any, seen: set[str]) -> str | None:
    """What a name of the script stands for: a number, other code of the script, or of a module beside it."""
    if isinstance(value, _SIMPLE):
        return f"{name} = {value!r}"
    module = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
    if module == "__main__" and (inspect.isfunction(value) or isinstance(value, type)):
        return "" if value.__qualname__ in seen else _typed(value, seen)
    known = _module(module) if module and module.partition(".")[0] != "metaleaf" else None
    # What is installed has a version, which the record has.
    return "" if known is None or _installed(known.path) else _digest(_closure([str(module)], UNDECIDING))


def _closure(roots: Iterable[str], beyond: Container[str], siblings: Iterable[str] = ()) -> dict[str, str]:
    """The digests of all modules that these import and that count, these included, by name.

    siblings: other packages and modules that were installed together with the roots, which count as these do.
    """
    todo, found = list(roots), {}
    own = {*siblings, *(name.partition(".")[0] for name in todo)}
    while todo:
        name = todo.pop()
        if name in found or name in beyond or not (module := _module(name)):
            continue
        top = name.partition(".")[0]
        if top not in own and top != "metaleaf" and _installed(module.path):
            continue
        found[name] = module.digest
        todo += [*module.imports, *_parents(name)]
    return found


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _digest(modules: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{name} {modules[name]}\n" for name in sorted(modules)).encode()).hexdigest()


@cache
def _folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in names)


def _installed(path: Path) -> bool:
    """Whether a file belongs to a package that was installed (and has a version), or to Python."""
    return any(path.resolve().is_relative_to(folder) for folder in _folders())


# ------------------------------------------------------------------------------------------------------ modules

_known: dict[str, tuple[ModuleSpec | None, _Module | None]] = {}


def _module(name: str) -> _Module | None:
    """The module of that name; None for one without a file, or a name that is none of a module."""
    if name.partition(".")[0] in sys.stdlib_module_names:
        return None
    spec = getattr(sys.modules.get(name), "__spec__", None)
    known = _known.get(name)
    if known is None or known[0] is not spec:  # a module that is loaded anew gets another spec
        path = _file(name)
        known = _known[name] = spec, _read(name, path) if path else None
    return known[1]


def _file(name: str) -> Path | None:
    """The file of a module, found without importing it."""
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # `__main__`, or a module made by hand
        return None
    if spec is None or not rest:
        return Path(spec.origin) if spec and spec.has_location and spec.origin else None
    places = [Path(place, *rest) for place in spec.submodule_search_locations or ()]
    suffixes = (".py", "/__init__.py", *EXTENSION_SUFFIXES)
    files = (Path(f"{place}{suffix}") for place in places for suffix in suffixes)
    return next((file for file in files if file.is_file()), None)


def _read(name: str, path: Path) -> _Module:
    data = path.read_bytes()
    if path.suffix != ".py":
        return _Module(path, hashlib.sha256(data).hexdigest(), frozenset())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = _Tree(package)
    tree.visit(ast.parse(data))
    return _Module(path, hashlib.sha256("".join(tree.text).encode()).hexdigest(), frozenset(tree.imports))


class _Tree:
    """Writes a syntax tree as text, the same in every version of Python, and notes what is imported."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.text: list[str] = []
        self.imports: set[str] = set()

    def visit(self, node: Any) -> None:
        """A node, a list of nodes, or a constant."""
        if isinstance(node, ast.AST):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._note(node)
            self.text.append(type(node).__name__)
            for field in node._fields:
                value = getattr(node, field, None)
                if value is not None and value != [] and field != "kind":  # versions differ in what is empty
                    self.text.append(f"({field} ")
                    self.visit(value)
                    self.text.append(")")
        elif isinstance(node, list):
            for item in node:
                if _is_for_checkers(item):
                    self.visit(item.orelse)
                elif not _is_only_text(item):
                    self.visit(item)
                    self.text.append(",")
        else:
            self.text.append(repr(node))

    def _note(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            self.imports.update(alias.name for alias in node.names)
            return
        module = node.module or ""
        if node.level:
            parts = self.package.split(".")
            module = ".".join([*parts[: len(parts) - node.level + 1], *([module] if module else [])])
        self.imports.update([module, *(f"{module}.{alias.name}" for alias in node.names)])


def _is_only_text(node: Any) -> bool:
    """A docstring or another bare string; also `pass`, which may stand for one."""
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    )


def _is_for_checkers(node: Any) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
