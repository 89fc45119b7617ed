"""Compress, quantise, or both: bytes, latency and accuracy of all four models in one table.

    python examples/quantise_after.py
    python examples/quantise_after.py --model model.onnx --data eval.npz --macs 0.8 --out folder/

Quantisation comes second: weights that are stored as integers can no longer be fitted. The data, an .npz file with an
array for each of the model's inputs and `labels`, is divided: the first `--count` samples calibrate both steps, the
others measure accuracy.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, quantize_static

import lbyl_onnx

MODELS = Path(__file__).resolve().parent.parent / "models"


class Samples(CalibrationDataReader):
    """One sample at a time, as onnxruntime's quantisation reads them."""

    def __init__(self, inputs: dict[str, np.ndarray]) -> None:
        count = len(next(iter(inputs.values())))
        self.feeds = iter([{name: array[[index]] for name, array in inputs.items()} for index in range(count)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODELS / "digits_cnn_folded.onnx")
    parser.add_argument("--data", type=Path, default=MODELS / "digits_eval.npz", help="an .npz file with labels")
    parser.add_argument("--count", type=int, default=128, help="samples that calibrate")
    parser.add_argument("--macs", type=float, default=0.5, help="share of the multiply-accumulates to keep")
    parser.add_argument("--out", type=Path, help="a folder for the three models")
    given = parser.parse_args()
    arrays = dict(np.load(given.data))
    first = {name: array[: given.count] for name, array in arrays.items() if name != "labels"}
    others = {name: array[given.count :] for name, array in arrays.items()}
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder)
        out.mkdir(exist_ok=True)
        files = {"plain": given.model} | {name: out / f"{name}.onnx" for name in ("compressed", "quantised", "both")}
        result = lbyl_onnx.compress(given.model, target={"macs": given.macs}, calibration=first)
        lbyl_onnx.save(result, files["compressed"])
        quantize_static(files["plain"], files["quantised"], Samples(first))
        quantize_static(files["compressed"], files["both"], Samples(first))
        print(f"{'':12}{'bytes':>10}{'latency':>12}{'accuracy':>12}")
        for name, path in files.items():
            found = lbyl_onnx.validate(given.model, path, data=others)
            size = path.stat().st_size
            print(f"{name:12}{size:>10,}{found.latency_after_ms:>9.3f} ms{found.accuracy_after:>12.2%}")
    print(f"accuracy on {found.samples} samples that neither step has seen")


if __name__ == "__main__":
    main()
