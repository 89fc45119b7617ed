"""Certificates as they are printed: words first, at most as wide as the screen."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from ...errors import counted
from ..tables import GAP, printable
from .certify import Certificate
from .needed import USUAL, SamplesNeeded
from .statements import ACCURACY, CHANGED, MEAN, QUANTILE, Statement


def heading(certificate: Certificate) -> str:
    """What the table below it says, and of what."""
    sure, count = per_cent(certificate.confidence), counted(certificate.samples, "sample")
    if certificate.made_up:
        return printable(
            f"An illustration, no certificate for real inputs: what {count} ({certificate.data}) say of others that "
            f"the same generator makes, with {sure} confidence for all lines together:"
        )
    return printable(
        f"For new inputs of the distribution that these {count} ({certificate.data}) were drawn from, with {sure} "
        "confidence for all lines together:"
    )


def certificate_table(certificate: Certificate) -> Table:
    """One row for each claim: what is bounded, the bound, and what the samples themselves show."""
    several = len({each.output for each in certificate.statements}) > 1
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    table.add_column("Of new inputs")
    for title in ("At most", "On the samples"):
        table.add_column(title, justify="right", no_wrap=True)
    for statement in certificate.statements:
        if statement.bound is not None and statement.observed is not None:
            where = f"{printable(statement.output)}: " if several else ""
            values = (amount(statement, value) for value in (statement.bound, statement.observed))
            table.add_row(where + subject(statement), *values)
    return table


def subject(statement: Statement) -> str:
    """What a statement bounds, in words."""
    if statement.quantity == CHANGED:
        return "share whose top-1 is another"
    if statement.quantity == ACCURACY:
        return "loss of accuracy, points"
    if statement.quantity == QUANTILE:
        return f"gap of {per_cent(statement.share or 0)} of the inputs, {statement.measure}"
    return f"{statement.quantity}, {statement.measure}"


def amount(statement: Statement, value: float) -> str:
    """A bound or what was seen, in the statement's unit."""
    if statement.quantity == CHANGED:
        return f"{value:.2%}"
    return f"{100 * value:.2f}" if statement.quantity == ACCURACY else f"{value:.3g}"


def remarks(certificate: Certificate) -> Iterator[str]:
    """Sentences on what is not claimed, and on what the claims rest."""
    for statement in certificate.statements:
        if statement.bound is None:
            what = subject(statement) if statement.quantity in (MEAN, QUANTILE) else statement.quantity
            yield printable(f"not claimed for {statement.output}: {what}: {statement.reason}")
        elif statement.needed is not None:
            yield printable(f"gap of 99% of the inputs of {statement.output}: takes {statement.needed:,} samples")
    yield f"checked: {certificate.record}"
    yield "not checked, and all of the above rests on it:"
    yield from (f"- {premise}" for premise in certificate.premises)


def plan_table(found: SamplesNeeded) -> Table:
    """How many samples bounds take."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for title in ("To claim", "Samples if claimed alone", f"as one of {USUAL}"):
        table.add_column(title, justify="left" if title == "To claim" else "right")
    limit = per_cent(found.limit)
    for hits, *needed in found.changed:
        table.add_row(f"top-1 of at most {limit} changes, {hits} seen to", *map(_number, needed))
    table.add_row(f"{per_cent(1 - found.limit)} move by at most the largest gap", *map(_number, found.quantile))
    return table


def plan_heading(found: SamplesNeeded) -> str:
    """What the table of a plan is about."""
    return f"Independent samples that claims about new inputs take, with {per_cent(found.confidence)} confidence:"


def per_cent(share: float) -> str:
    """A share with as many digits as it has.

    >>> per_cent(0.99), per_cent(0.001), per_cent(0.9999)
    ('99%', '0.1%', '99.99%')
    """
    return f"{100 * share:.10g}%"


def _number(count: int | None) -> str:
    return "over 100 million" if count is None else f"{count:,}"
