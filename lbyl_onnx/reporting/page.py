"""The page: one HTML file without anything to load, which says what a run did."""

from __future__ import annotations

import base64
import hashlib
from pathlib import PurePath

from ..evaluation.records import Report
from ..evaluation.tables import cut_summary, measured_on, printable
from .command import command, from_memory
from .figures import NARROW, WIDE, inline, require_libraries
from .findings import MEANINGS, both_models, group_rows, photograph_credits
from .network import layer_in_words
from .pictures import pictures

TEMPLATE, SCRIPT = "page.html", "page.js"


def page(report: Report) -> str:
    """The report as HTML. Whatever comes from a model, such as names of nodes, is text and never markup; the page's own
    policy lets nothing be loaded and no script run but its own. Raises UsageError where jinja2 or matplotlib is
    missing."""
    require_libraries()
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    loader = PackageLoader(__package__)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    script = loader.get_source(environment, SCRIPT)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawn = {
        name: (picture, [Markup(inline(picture, width)) for width in (WIDE, NARROW)])
        for name, picture in pictures(report).items()
    }
    validation = report.validation
    verdict = None if validation is None else validation.verdict
    return environment.get_template(TEMPLATE).render(
        report=report,
        model=printable(PurePath(report.input.path).name) if report.input.path else "a model from memory",
        verdict=verdict,
        meaning=None if verdict is None else MEANINGS[verdict.level],
        summary=cut_summary(report).splitlines(),
        rows=both_models(report),
        measured=None if validation is None else measured_on(validation),
        pictures=drawn,
        layers=[layer_in_words(number, layer) for number, layer in enumerate(report.layers, 1)],
        groups=group_rows(report),
        command=command(report),
        from_memory=from_memory(report),
        credits=photograph_credits(report),
        printable=printable,
        unknown=float("inf"),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )
