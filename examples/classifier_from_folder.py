"""A folder of photographs and an image classifier: compress it on them, then look at what both models answer.

    python examples/classifier_from_folder.py
    python examples/classifier_from_folder.py --model mobilenet.onnx --photographs photos/ --mean 0.5 --std 0.5

Without arguments it writes shipped images of digits into a folder and takes the shipped network.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image

import lbyl_onnx

MODELS = Path(__file__).resolve().parent.parent / "models"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODELS / "digits_cnn_folded.onnx", help="with one image input")
    parser.add_argument("--photographs", type=Path, help="a folder of images, sub-folders included")
    parser.add_argument("--mean", type=float, nargs="+", help="of pixels in [0, 1]; default: ImageNet's")
    parser.add_argument("--std", type=float, nargs="+")
    parser.add_argument("--macs", type=float, default=0.7, help="share of the multiply-accumulates to keep")
    parser.add_argument("--out", type=Path, help="where the compressed model goes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.photographs is None:
            given.photographs, given.mean, given.std = write_digits(Path(folder, "digits")), [0.0], [1.0]
        scaled = given.mean and lbyl_onnx.Normalisation(tuple(given.mean), tuple(given.std))
        result = lbyl_onnx.compress(
            given.model, target={"macs": given.macs}, calibration=given.photographs, normalisation=scaled
        )
        out = given.out or Path(folder, "small.onnx")
        lbyl_onnx.save(result, out)
        compare(given.model, out, given.photographs, scaled)
    before, after = result.report.input, result.report.output
    print(f"{before.macs:,} multiply-accumulates became {after.macs:,}, {before.bytes:,} bytes {after.bytes:,}")
    print(f"on photographs that were held out: {result.report.validation.verdict.reason}")


def write_digits(folder: Path) -> Path:
    """128 of the shipped images, 8x8, as PNG files."""
    folder.mkdir()
    for number, image in enumerate(np.load(MODELS / "digits_eval.npz")["image"][:128]):
        Image.fromarray((image[0] * 255).round().astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


def compare(before: Path, after: Path, photographs: Path, scaled: lbyl_onnx.Normalisation | None) -> None:
    """Prints class and score that each model gives to some of the photographs, and how often they agree."""
    sessions = [ort.InferenceSession(str(path)) for path in (before, after)]
    paths = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    same = 0
    for number, path in enumerate(paths):
        answers = [classify(session, path, scaled) for session in sessions]
        same += answers[0][0] == answers[1][0]
        if number < 5:
            (first, score), (second, other) = answers
            print(f"{path.name:12}  before {first:4} ({score:.2f})  after {second:4} ({other:.2f})")
    print(f"the same answer to {same} of {len(paths)} photographs")


def classify(session: ort.InferenceSession, path: Path, scaled: lbyl_onnx.Normalisation | None) -> tuple[int, float]:
    """Class of the highest score, and that score, for one image, read as the input wants it."""
    spec = session.get_inputs()[0]
    last = spec.shape[-1] in (1, 3)
    channels = spec.shape[-1] if last else spec.shape[1]
    height, width = (size if isinstance(size, int) else 224 for size in (spec.shape[1:3] if last else spec.shape[2:]))
    image = Image.open(path).convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32).reshape(1, height, width, channels) / 255
    scaled = scaled or lbyl_onnx.Normalisation.default(channels)
    pixels = (pixels - np.float32(scaled.mean)) / np.float32(scaled.std)
    scores = session.run(None, {spec.name: pixels if last else pixels.transpose(0, 3, 1, 2)})[0].ravel()
    return int(scores.argmax()), float(scores.max())


if __name__ == "__main__":
    main()
