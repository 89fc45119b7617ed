"""How pictures are drawn: once, by matplotlib, for files and for the page.

matplotlib's SVG needs no script, prints, and leaves texts as texts, which readers, screen readers and searches find;
the same code gives PNG files. plotly and vega-embed would put a large script into every page, for zooming that six
small pictures do not need, and vega-embed draws on a canvas unless told otherwise. What they would add is added here:
a `<title>` for every bar, line or point that stands for something, and colours that follow the page's theme.

Names of nodes are never read as mathematics, and only ElementTree writes them into SVG.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ..errors import UsageError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
COLOURS = {
    "ink": "#1c2128",
    "muted": "#59636e",
    "grid": "#d8dee6",
    "kept": "#0969a8",
    "gone": "#c2541b",
    "paper": "#fefefe",
}
"""By role, on white; on the page they are variables of its style sheet."""
WIDE, NARROW = 8.6, 3.9
"""Inches: of a column of text, and of a telephone."""
DOTS = 200
"""An inch, in PNG files."""
FEW_DECADES = 300
"""Logarithmic axes over less than this have numbers between the powers of ten."""
PLACES = {"d", "x", "y", "width", "height", "transform"}
"""Attributes that hold coordinates, for which hundredths of a point do."""
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 9.5,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}
MISSING = "pages and pictures need {name}, which is not installed; pip install 'lbyl-onnx[report]'"


class Canvas:
    """Axes to draw on, `narrow` or not, and what their marks say."""

    def __init__(self, axes: Axes, narrow: bool) -> None:
        self.axes, self.narrow = axes, narrow
        self.titles: dict[str, str] = {}

    def mark(self, artist: Artist, text: str, kind: str = "shape") -> None:
        """Something drawn stands for what the text says."""
        name = f"{kind}-{len(self.titles)}"
        artist.set_gid(name)
        self.titles[name] = text

    def numbered(self, count: int, label: str) -> None:
        """The x axis counts 1, 2, ..., `count`."""
        from matplotlib.ticker import MaxNLocator

        self.axes.set(xlabel=label, xlim=(0.5, count + 0.5))
        self.axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    def logarithmic(self, label: str) -> None:
        """The y axis is logarithmic, with plain numbers."""
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        self.axes.set(ylabel=label, yscale="log")
        low, high = self.axes.get_ylim()
        subs = (1, 2, 5) if high < FEW_DECADES * low else (1,)
        self.axes.yaxis.set_major_locator(LogLocator(subs=subs))
        self.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        self.axes.yaxis.set_minor_formatter(NullFormatter())

    def legend_above(self, columns: int = 1) -> None:
        """What the colours stand for, above the axes."""
        self.axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)

    def columns(self, texts: list[str]) -> None:
        """Columns of full height around 1, 2, ..., nothing to see, each of which says a text."""
        for number, text in enumerate(texts, 1):
            column = self.axes.axvspan(number - 0.5, number + 0.5, facecolor=COLOURS["ink"], alpha=0)
            self.mark(column, text, "column")


@dataclass(frozen=True)
class Picture:
    """`name`: of its files; `title` and one sentence that `says` what there is to see; `height`: in inches; `draw`:
    puts it on axes."""

    name: str
    title: str
    says: str
    height: float
    draw: Callable[[Canvas], None]


def require_libraries() -> None:
    """Raise UsageError, which names the extra, where pages and pictures cannot be made."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(MISSING.format(name=error.name)) from None


def png(picture: Picture) -> bytes:
    """The picture as a PNG file."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(STYLE):
        figure, _ = _drawn(picture, WIDE)
        figure.savefig(buffer, format="png", dpi=DOTS, facecolor=COLOURS["paper"], metadata={"Title": picture.title})
    return buffer.getvalue()


def svg(picture: Picture) -> bytes:
    """The picture as an SVG file of its own."""
    root = _vector(picture, WIDE, COLOURS["paper"])
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def inline(picture: Picture, width: float) -> str:
    """The picture as an element of the page, in the page's colours and fonts, which a telephone may make smaller."""
    root = _vector(picture, width)
    for size in ("width", "height"):
        del root.attrib[size]
    root.set("class", "narrow" if width == NARROW else "wide")
    root.set("role", "group")
    root.set("aria-label", picture.title)
    for element in root.iter():
        style = re.sub(r"font-family: [^;]*(; )?", "", element.get("style", ""))
        style = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", style)
        for role, colour in COLOURS.items():
            style = style.replace(colour, f"var(--{role})")
        if style:
            element.set("style", style)
    return ElementTree.tostring(root, encoding="unicode")


def _drawn(picture: Picture, width: float) -> tuple[Figure, Canvas]:
    from matplotlib.figure import Figure

    figure = Figure((width, picture.height), layout="constrained")
    canvas = Canvas(figure.subplots(), width == NARROW)
    canvas.axes.set_facecolor("none")
    picture.draw(canvas)
    return figure, canvas


def _vector(picture: Picture, width: float, paper: str = "none") -> ElementTree.Element:
    """The picture as SVG whose marks have titles; identifiers that nothing refers to are left out."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({**STYLE, "svg.hashsalt": f"{picture.name} {width}"}):
        figure, canvas = _drawn(picture, width)
        none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", facecolor=paper, metadata=none)
    for prefix, address in (("", SVG), ("xlink", XLINK)):
        ElementTree.register_namespace(prefix, address)
    text = buffer.getvalue().decode()
    root = ElementTree.fromstring(text)
    used = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", text))
    for element in root.iter():
        name = element.get("id")
        if name in canvas.titles:
            title = ElementTree.Element(f"{{{SVG}}}title")
            title.text = canvas.titles[name]
            element.insert(0, title)
            element.set("class", f"mark {name.partition('-')[0]}")
        if name is not None and name not in used:
            del element.attrib["id"]
        for place in PLACES.intersection(element.keys()):
            element.set(place, re.sub(r"(\.\d\d)\d+", r"\1", element.get(place, "")))
    return root
