"""The command that certifies: its arguments, and what it calls and shows."""

from __future__ import annotations

from ..errors import UsageError
from ..evaluation.certificates import certify as certificates
from ..evaluation.certificates.needed import samples_needed
from ..evaluation.json_form import to_json
from .arguments import (
    CertifiedOriginal,
    CertifiedResult,
    Confidence,
    Data,
    InputRange,
    Json,
    Library,
    MadeUpSamples,
    Mean,
    PlannedShare,
    Provider,
    RunReport,
    Seed,
    Shape,
    Std,
    parse_normalisation,
    parse_shapes,
)
from .screen import console, print_certificate, print_error, print_samples_needed, waiting


def certify(
    original: CertifiedOriginal = None,
    compressed: CertifiedResult = None,
    data: Data = None,
    confidence: Confidence = 0.99,
    run: RunReport = None,
    plan: PlannedShare = None,
    samples: MadeUpSamples = None,
    mean: Mean = None,
    std: Std = None,
    input_range: InputRange = None,
    shape: Shape = None,
    seed: Seed = 0,
    provider: Provider = "auto",
    custom_ops_library: Library = None,
    json: Json = False,
) -> None:
    """Bound, with a confidence, how far B is from A on new inputs, from independent samples that nothing was fitted to.

    Exit codes: 0 done, 1 internal error, 2 wrong usage, among it samples that the compression has used, 3 unreadable or
    invalid model, 5 B does not load, has other shapes or is not finite where A is, 130 interrupted.
    """
    if plan is not None:
        if original is not None or data is not None:
            raise UsageError("says how many samples to gather; give it no models and no --data", "plan")
        needed = samples_needed(plan, confidence)
        print(to_json(needed)) if json else print_samples_needed(console(), needed)
        return
    if original is None or compressed is None:
        raise UsageError("certify needs two models, the original A and the compressed B, or --plan SHARE")
    with waiting("certifying"):
        found = certificates.certify(
            original,
            compressed,
            data,
            confidence,
            run,
            samples,
            seed,
            parse_shapes(shape),
            parse_normalisation(mean, std, input_range),
            provider,
            custom_ops_library,
        )
    print(found.to_json()) if json else print_certificate(console(), found)
    for warning in found.warnings:
        print_error(f"warning: {warning}")
