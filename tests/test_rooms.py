"""The rooms of the package: who may import whom, how long code may get, and whether the picture of them is true.

Every rule is a function from sources (path in the package -> text) to sentences about what breaks it, so that small
made-up packages show that each of them can be broken.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import pytest
from conftest import ROOT

PACKAGE = "lbyl_onnx"
ROOMS = (
    "training",
    "model",
    "calibration",
    "channels",
    "selection",
    "bounds",
    "restoration",
    "evaluation",
    "reporting",
    "compression",
    "olive",
    "sweeps",
    "cli",
)
"""From the lowest up: each may import those to its left."""
LEVELS = ("errors", "budgets", "options", "progress", *ROOMS, "__main__", "__init__")
"""The same with the modules beside the rooms: three that all may import, and two that nothing imports."""
FOR_ALL = ("errors", "budgets", "options", "progress")
MODULE_LINES, FUNCTION_LINES = 350, 60

Sources = Mapping[str, str]


def package() -> dict[str, str]:
    files = [path for path in (ROOT / PACKAGE).rglob("*") if path.suffix in (".py", ".pyi")]
    return {path.relative_to(ROOT / PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(files)}


def document(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# ---- what the sources say


def room(path: str) -> str:
    """The room of a module; the name of one that lies beside the rooms."""
    return PurePosixPath(path).parts[0].partition(".")[0]


def imports(path: str, sources: Sources) -> Iterator[tuple[int, str]]:
    """Line and target, from the package's root, of every relative import in a module, also inside functions."""
    for node in ast.walk(ast.parse(sources[path])):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = PurePosixPath(path).parts[:-1]
            base = folder[: len(folder) + 1 - node.level] if node.level <= len(folder) + 1 else ("outside",)
            for alias in node.names:
                target = "/".join([*base, *(node.module or "").split(".")]).strip("/")
                yield node.lineno, f"{target}/{alias.name}".strip("/") if target in folders(sources) else target


def folders(sources: Sources) -> set[str]:
    """The packages, "" for the root."""
    return {str(PurePosixPath(path).parent).removeprefix(".") for path in sources}


def target_room(target: str, sources: Sources) -> str:
    """The room of an import's target; "__init__" for a name that the root itself defines."""
    first = room(target)
    return first if first in {room(path) for path in sources} or first == "outside" else "__init__"


def arrows(sources: Sources) -> dict[str, set[str]]:
    """The rooms that each room imports."""
    found: dict[str, set[str]] = {room(path): set() for path in sources}
    for path in sources:
        found[room(path)] |= {target_room(target, sources) for _, target in imports(path, sources)} - {room(path)}
    return found


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's statements: a signature may hold the options of a command, each with its help."""
    documented = ast.get_docstring(function) is not None and len(function.body) > 1
    start = function.body[int(documented)].lineno
    return (function.end_lineno or start) - start + 1


# ---- rules


def imports_upward(sources: Sources) -> list[str]:
    found = []
    for path in sources:
        own = room(path)
        if own not in LEVELS:
            found.append(f"{path}: {own} is no known room")
            continue
        for line, target in imports(path, sources):
            other = target_room(target, sources)
            if other != own and (other not in LEVELS or LEVELS.index(other) > LEVELS.index(own)):
                found.append(f"{path}:{line}: {own} imports {target}, which is above it")
    return found


def mutual_imports(sources: Sources) -> list[str]:
    found = arrows(sources)
    return [
        f"{one} and {other} import each other"
        for one in found
        for other in found[one]
        if one < other and one in found.get(other, ())
    ]


def absolute_imports(sources: Sources) -> list[str]:
    found = []
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
                "import_module",
                "__import__",
            ):
                found.append(f"{path}:{node.lineno}: imports what no reader sees")
            found += [f"{path}:{node.lineno}: imports {name}" for name in names if name.split(".")[0] == PACKAGE]
    return found


def too_long(sources: Sources) -> list[str]:
    found = []
    for path, text in sources.items():
        lines = len(text.splitlines())
        if lines > MODULE_LINES:
            found.append(f"{path}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > FUNCTION_LINES:
                found.append(f"{path}:{node.lineno}: {node.name} has {body_lines(node)} lines")
    return found


RULES = (imports_upward, mutual_imports, absolute_imports, too_long)


def picture(text: str) -> dict[str, set[str]]:
    """The rooms of the first ```text block, one a line: its name, words, an arrow, and the rooms that it imports."""
    block = re.search(r"^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None, "there is no picture"
    rows = [re.fullmatch(r"\W*(\w+) .*→([\w ]*)\W*", line) for line in block[1].splitlines()]
    return {row[1]: set(row[2].split()) for row in rows if row is not None}


def picture_differs(text: str, sources: Sources) -> list[str]:
    drawn = picture(text)
    real = {
        name: found - set(FOR_ALL) for name, found in arrows(sources).items() if name in {*folders(sources), *ROOMS}
    }
    found = [f"{name} is not drawn" for name in real if name not in drawn]
    found += [f"{name} is drawn and is no room" for name in drawn if name not in real]
    for name in drawn.keys() & real.keys():
        found += [f"the arrow {name} → {other} is missing" for other in sorted(real[name] - drawn[name])]
        found += [f"{name} does not import {other}" for other in sorted(drawn[name] - real[name])]
    order = [name for name in drawn if name in ROOMS]
    if order != sorted(order, key=ROOMS.index, reverse=True):
        found.append("the rooms are not drawn from the top down")
    return found


# ---- the package


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    assert rule(package()) == []


def test_the_rules_see_the_whole_package():
    found = arrows(package())
    assert set(ROOMS) <= found.keys()
    assert found["calibration"] >= {"model"} and found["cli"] >= {"compression", "evaluation"}
    assert found["__init__"] >= {"compression", "model"}  # the stub that says what the package offers
    rooms = {path.name for path in (ROOT / PACKAGE).iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(ROOMS) - {"compression"}


def test_the_picture_shows_the_rooms_and_their_imports():
    assert picture_differs(document("docs/architecture.md"), package()) == []


DOCUMENTS = ("README.md", "CHANGELOG.md", "docs/architecture.md", "docs/contributing.md", "docs/experiments.md")


def missing_names(text: str) -> list[str]:
    """Files and dotted names in backticks that are not there. Files are named from the root or from the package."""
    spoken = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = []
    for name in re.findall(r"`([\w./]+)(?:\(\))?`", spoken):
        if name.endswith(".py"):
            found += [] if any((base / name).exists() for base in (ROOT, ROOT / PACKAGE)) else [name]
        elif re.fullmatch(rf"({PACKAGE}|{'|'.join(LEVELS)})(\.\w+)+", name) and not _resolves(name):
            found.append(name)
    return found


def _resolves(name: str) -> bool:
    parts = name.removeprefix(f"{PACKAGE}.").split(".")
    value: object = importlib.import_module(PACKAGE)
    for number, part in enumerate(parts, 1):
        try:
            value = importlib.import_module(".".join([PACKAGE, *parts[:number]]))
        except ImportError:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
    return True


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_what_is_there(name):
    assert missing_names(document(name)) == []


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(name):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", document(name))
    assert [target for target in targets if not ((ROOT / name).parent / target).exists()] == []


# ---- made-up packages, each of which breaks one rule

SOUND = {
    "__init__.py": "",
    "__init__.pyi": "from .compression import compress",
    "errors.py": "class E(Exception): ...",
    "options.py": "from .errors import E",
    "model/__init__.py": "",
    "model/graph.py": "from ..errors import E\nfrom .nodes import reads",
    "model/nodes.py": "import numpy",
    "channels/__init__.py": "",
    "channels/rules/__init__.py": "from . import pads",
    "channels/rules/pads.py": "from ...model.graph import GraphIndex\nfrom ..groups import Group",
    "channels/groups.py": "from ..model import graph\nfrom .. import options",
    "compression.py": "from .channels.groups import Group\nfrom .model import graph",
}


def test_a_sound_package_breaks_no_rule():
    assert [rule(SOUND) for rule in RULES] == [[]] * len(RULES)
    assert arrows(SOUND)["channels"] == {"model", "options"}


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("model/nodes.py", "from ..channels.groups import Group"),
        ("model/nodes.py", "from ..channels import groups"),
        ("model/nodes.py", "from .. import channels"),
        ("model/nodes.py", "def f():\n    from ..compression import compress"),
        ("channels/rules/pads.py", "from ...compression import compress"),
        ("channels/rules/pads.py", "from ... import compression"),
        ("errors.py", "from . import options"),
        ("options.py", "from .model.graph import GraphIndex"),
        ("compression.py", "from . import compress"),
        ("compression.py", "from .cellar import wine"),
        ("model/nodes.py", "from ...somewhere import thing"),
        ("attic/__init__.py", "import numpy"),
    ],
)
def test_imports_from_above_are_found(path, line):
    broken = {**SOUND, path: f"{SOUND.get(path, '')}\n{line}"}
    assert len(imports_upward(broken)) == 1
    assert path in imports_upward(broken)[0]


def test_rooms_that_import_each_other_are_found():
    broken = {**SOUND, "model/nodes.py": "def f():\n    from ..channels.groups import Group"}
    assert mutual_imports(broken) == ["channels and model import each other"]


@pytest.mark.parametrize(
    "line",
    [
        "import lbyl_onnx",
        "import numpy, lbyl_onnx.model.graph as graph",
        "from lbyl_onnx import errors",
        "from lbyl_onnx.errors import E",
        "def f():\n    import lbyl_onnx.options",
        "import importlib\nimportlib.import_module('lbyl_onnx.errors')",
        "__import__('lbyl_onnx')",
    ],
)
def test_absolute_imports_are_found(line):
    assert len(absolute_imports({**SOUND, "model/nodes.py": line})) == 1


def test_other_packages_are_imported_absolutely():
    assert absolute_imports({"model/nodes.py": "import lbyl_onnx_tools\nfrom onnx import helper"}) == []


def test_long_modules_and_functions_are_found():
    def function(lines: int) -> str:
        return 'def f(\n    a,\n    b,\n):\n    """One.\n\n    Two.\n    """\n' + "    a = b\n" * lines

    assert too_long({"a.py": "x = 1\n" * MODULE_LINES}) == []
    assert too_long({"a.py": "x = 1\n" * (MODULE_LINES + 1)}) == ["a.py: 351 lines"]
    assert too_long({"a.py": function(FUNCTION_LINES)}) == []
    assert too_long({"a.py": function(FUNCTION_LINES + 1)}) == ["a.py:1: f has 61 lines"]
    nested = "class A:\n" + "".join(f"    {line}\n" for line in function(61).splitlines())
    assert too_long({"a.py": nested}) == ["a.py:2: f has 61 lines"]


DRAWN = """
# Title

```text
 compression   the whole     → channels model
 channels      what is cut   → model
 model         graphs        →
```
"""


def test_a_true_picture_agrees():
    assert picture(DRAWN) == {"compression": {"channels", "model"}, "channels": {"model"}, "model": set()}
    assert picture_differs(DRAWN, SOUND) == []


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("→ channels model", "→ channels", "the arrow compression → model is missing"),
        ("graphs        →", "graphs        → channels", "model does not import channels"),
        (" model         graphs        →\n", "", "model is not drawn"),
        (" model  ", " cellar        wine  →\n model  ", "cellar is drawn and is no room"),
    ],
)
def test_a_wrong_picture_is_found(old, new, finding):
    assert old in DRAWN
    assert finding in picture_differs(DRAWN.replace(old, new), SOUND)


def test_a_picture_that_is_upside_down_is_found():
    lines = DRAWN.splitlines()
    turned = "\n".join([*lines[:4], *lines[6:3:-1], *lines[7:]]) + "\n"
    assert picture_differs(turned, SOUND) == ["the rooms are not drawn from the top down"]


def test_the_rules_read_the_folder_as_it_is(tmp_path, monkeypatch):
    """A copy of the package with a new room, an import upwards, an absolute one and a module that is too long."""
    for path, text in package().items():
        (tmp_path / PACKAGE / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / PACKAGE / path).write_text(text, encoding="utf-8")
    (tmp_path / PACKAGE / "cellar").mkdir()
    (tmp_path / PACKAGE / "cellar" / "__init__.py").write_text("from ..model import graph\n")
    text = (tmp_path / PACKAGE / "model" / "nodes.py").read_text(encoding="utf-8")
    added = f"{text}\nfrom ..cli import run\nimport lbyl_onnx\n" + "x = 1\n" * MODULE_LINES
    (tmp_path / PACKAGE / "model" / "nodes.py").write_text(added, encoding="utf-8")
    drawn = document("docs/architecture.md")
    before = picture_differs(drawn, package())
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert {finding.split(":")[0] for finding in imports_upward(package())} == {"cellar/__init__.py", "model/nodes.py"}
    assert mutual_imports(package()) == ["cli and model import each other"]
    assert absolute_imports(package())[0].startswith("model/nodes.py:")
    assert too_long(package())[0].startswith("model/nodes.py:")
    found = [finding for finding in picture_differs(drawn, package()) if finding not in before]
    assert found == ["cellar is not drawn", "the arrow model → cli is missing"]


def test_names_that_are_not_there_are_found():
    text = "`model/graph.py` `model/cellar.py` `model.graph.GraphIndex` `channels.surgery.burn` `compress()` `a.b`"
    assert missing_names(text) == ["model/cellar.py", "channels.surgery.burn"]
