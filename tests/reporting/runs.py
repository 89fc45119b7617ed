"""Records of runs for pages: one that was made, and others that are changed from it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
from conftest import ROOT

import lbyl_onnx
from lbyl_onnx.evaluation import latency
from lbyl_onnx.evaluation.records import LayerErrors, LayerReport, Report
from lbyl_onnx.reporting.page import page

CNN = ROOT / "models" / "digits_cnn_folded.onnx"
EVIL = "</title></svg><script>alert(1)</script><img src=x onerror=alert(2)>\"'&$\\alpha_1$ {{ 7 * 7 }} font: 3px x"
"""A node's name that means harm to HTML, SVG, mathematics and templates."""


@lru_cache(maxsize=1)
def recorded() -> Report:
    """A classifier of digits, cut by sensitivity, with all that there is to report."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(latency, "LATENCY_SECONDS", 0.02)
        report = lbyl_onnx.compress(CNN, target={"macs": 0.6}, samples=64, layer_errors=True).report
    return replace(report, output=replace(report.output, path="small.onnx"))


def bare() -> Report:
    """Weights alone decided, and nothing was compared."""
    groups = tuple(replace(group, errors=LayerErrors(), predicted_error=None) for group in recorded().groups)
    return replace(recorded(), groups=groups, validation=None, planned=None, calibration=None, warnings=(), layers=())


def with_outputs(*names: str) -> Report:
    """Several outputs, the first of which holds classes."""
    (output,) = recorded().validation.outputs
    outputs = [
        replace(output, name=name, classes=None if number else output.classes) for number, name in enumerate(names)
    ]
    return replace(recorded(), validation=replace(recorded().validation, outputs=tuple(outputs)))


def renamed(name: str) -> Report:
    """Everything that a model names has this name."""
    report = recorded()
    groups = tuple(replace(group, name=name, producers=(name,), consumers=(name,)) for group in report.groups)
    planned = tuple(replace(group, name=name, producers=(name,)) for group in report.planned.groups)
    outputs = tuple(replace(output, name=name) for output in report.validation.outputs)
    verdict = replace(report.validation.verdict, reason=f"output {name!r} is lost")
    return replace(
        report,
        input=replace(report.input, path=f"{name.replace('/', '')}.onnx"),
        groups=groups,
        layers=tuple(replace(layer, name=name) for layer in report.layers),
        planned=replace(report.planned, groups=planned),
        validation=replace(report.validation, outputs=outputs, verdict=verdict, data=name, free_outputs=(name,)),
        calibration=name,
        warnings=(name,),
        fallbacks=(name,),
    )


def deep(layers: int) -> Report:
    """A network of many layers and groups with long names."""
    report = recorded()
    names = [f"/backbone/stage{number // 9}/a/very/long/name/of/a/layer/Conv_{number}" for number in range(layers)]
    cut = next(group for group in report.groups if group.units_after < group.units_before)
    known = next(group for group in report.planned.groups if group.curve)
    sizes = [LayerReport(name, "Conv", 64 + number, 48 + number, 10**6, 7 * 10**5) for number, name in enumerate(names)]
    return replace(
        report,
        groups=tuple(replace(cut, name=name, producers=(name,)) for name in names),
        layers=tuple(sizes),
        planned=replace(report.planned, groups=tuple(replace(known, name=name, producers=(name,)) for name in names)),
    )


DEEP = 100
REPORTS = {"whole": recorded, "evil": lambda: renamed(EVIL), "deep": lambda: deep(DEEP)}


@lru_cache(maxsize=len(REPORTS))
def page_of(name: str) -> str:
    """The page of one of REPORTS, which takes a second to draw."""
    return page(REPORTS[name]())
