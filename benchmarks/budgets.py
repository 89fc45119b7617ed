"""Real ImageNet classifiers within budgets: what is lost at so many of the MACs, and how many of them go for a loss.

    python benchmarks/budgets.py [--macs 0.9 0.8 0.7] [--drop 1] [--round-to 8] [--models mcunet_512kb_2mb_imagenet_160]

Each with the 250 photographs that are for calibration, and without data. Top-1 is measured on the other 250, so that
one standard error is about 2.5 points. SqueezeNet, whose units all reach a Concat, is cut with `--scope all`.
"""

from __future__ import annotations

import argparse
import time

from imagenet import SCALINGS, Classifier
from material import imagenet

from lbyl_onnx import compress


def main() -> None:
    """Print one line for each network, budget and kind of samples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--macs", type=float, nargs="*", default=[0.9, 0.8, 0.7])
    parser.add_argument("--drop", type=float, nargs="*", default=[1.0], help="points of accuracy")
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--models", nargs="+", help="names of networks; all by default")
    options = parser.parse_args()
    targets = [{"macs": share} for share in options.macs] + [{"drop": points} for points in options.drop]
    header = ("network", "top-1", "budget", "samples", "MACs left", "points lost", "expected", "seconds")
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    tool = imagenet()
    for name in options.models or tool.MODELS:
        network = Classifier(name, tool)
        before = network.accuracy(network.model)
        for target in targets:
            for kind in ("given", "none"):
                started = time.perf_counter()
                found = compress(
                    network.model,
                    target=target,
                    scope=network.scope,
                    round_to=options.round_to,
                    calibration=network.given if kind == "given" else "auto",
                    normalisation=None if kind == "given" else SCALINGS[network.scaling],
                )
                seconds = time.perf_counter() - started
                report = found.report
                lost = before - network.accuracy(found.compressed)
                validation = report.validation
                classes = validation.outputs[0].classes if validation and validation.outputs else None
                expected = f"{100 * classes.expected_loss:.1f}" if classes else "-"
                asked = ", ".join(f"{key}={value:g}" for key, value in target.items())
                left = f"{report.output.macs / report.input.macs:.3f}"
                row = (name, f"{before:.1f}", asked, kind, left, f"{lost:.1f}", expected, f"{seconds:.0f}")
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
