"""What the site takes from elsewhere when it is built: options from the program, texts from the repository's root.

A line of a page stands for what it names:

    <!-- options of compress -->
    <!-- CHANGELOG.md -->
    <!-- README.md: What it does to accuracy -->
"""

import re
from pathlib import Path

import typer

from lbyl_onnx.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(
    r"^<!-- (?:options of (?P<command>\w+)|(?P<file>[A-Z]+\.md)(?:: (?P<section>.+?))?) -->$", re.MULTILINE
)
COMMANDS = typer.main.get_command(app).commands


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by mkdocs for every page."""

    def named(mark: re.Match[str]) -> str:
        return options(mark["command"]) if mark["command"] else text(mark["file"], mark["section"])

    return MARK.sub(named, markdown)


def options(command: str) -> str:
    """The arguments and options of a command as a list of definitions."""
    lines = []
    for parameter in COMMANDS[command].params:
        named = [parameter.opts[0]] if parameter.param_type_name == "option" else []
        takes = [] if getattr(parameter, "is_flag", False) else [parameter.metavar or parameter.name.upper()]
        default = "" if parameter.default in (None, False) else f" Default: `{parameter.default}`."
        lines += [f"`{' '.join(named + takes)}`", f":   {parameter.help}{default}", ""]
    return "\n".join(lines)


def text(file: str, section: str | None) -> str:
    """A file at the repository's root without its title, or one section of it, with links as seen from docs/."""
    found = (ROOT / file).read_text(encoding="utf-8").split("\n", 1)[1]
    if section is not None:
        found = re.split(r"^## ", found.split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]
    return found.replace("](docs/", "](")
