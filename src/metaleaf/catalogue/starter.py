"""New plugins from the files in ``templates/``: a small algorithm that works, with its test."""

import keyword
import re
from pathlib import Path
from string import Template

import metaleaf
from metaleaf import registry
from metaleaf.errors import ConfigError

TEMPLATES = Path(__file__).resolve().parent / "templates"


def checkout() -> Path:
    """The folder of the repository that this package runs from; a ConfigError where it is installed without one."""
    package = Path(metaleaf.__file__).resolve().parent
    root = package.parent.parent
    if (package / "algorithms").is_symlink() and (root / "tests").is_dir():
        return root
    raise ConfigError(f"{package} is an installed package and not a checkout of metaleaf's repository.")


def new_algorithm(name: str, to: Path | None = None) -> tuple[Path, Path]:
    """Write the plugin `name` and its test into the repository, or both into a folder of one's own.

    Returns their paths. ConfigError, and nothing written, for a name that is taken or no name for a plugin, and
    for a folder that does not exist.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ConfigError(f"{name!r} is no name for a plugin: use an identifier in snake_case, like my_method.")
    if name in registry.names("algorithms"):
        raise ConfigError(f"there is an algorithm {name!r} already: choose another name.")
    if to is None:
        root = checkout()
        plugin, test = root / "algorithms" / f"{name}.py", root / "tests" / f"test_{name}.py"
        module = f"metaleaf.algorithms.{name}"
    else:
        if not to.is_dir():
            raise ConfigError(f"{to} is not a folder: make it first.")
        plugin, test, module = to / f"{name}.py", to / f"test_{name}.py", module_name(to, name)
    for path in (plugin, test):
        if path.exists():
            raise ConfigError(f"{path} exists already: choose another name.")
    texts = render(name, module)
    plugin.write_text(texts[0], encoding="utf-8")
    test.write_text(texts[1], encoding="utf-8")
    return plugin, test


def module_name(folder: Path, name: str) -> str:
    """How a file in the folder is imported: with the packages that the folder is in, if any."""
    parts, folder = [name], folder.resolve()
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts)


def class_name(name: str) -> str:
    """The plugin's class: MyMethod for my_method."""
    return "".join(part.capitalize() for part in name.split("_"))


def render(name: str, module: str) -> tuple[str, str]:
    """The text of the plugin and of its test."""
    paths = [TEMPLATES / f"{kind}.py.template" for kind in ("algorithm", "test_algorithm")]
    templates = [path.read_text(encoding="utf-8") for path in paths]
    own = class_name(name)
    imports = [line for text in templates for line in text.splitlines() if "import " in line]
    if any(own in re.findall(r"\w+", line) for line in imports):
        raise ConfigError(f"the class of {name!r} would hide another {own}: choose another name.")
    words = {"class_name": own, "title": name.replace("_", " ").capitalize(), "module": module}
    plugin, test = (Template(text).substitute(words) for text in templates)
    return plugin, test
