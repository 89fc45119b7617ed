"""A model of Hugging Face transformers: export it with Optimum, compress the ONNX file, run it.

    pip install 'lbyl-onnx[examples]' optimum-onnx
    python examples/optimum_export.py
    python examples/optimum_export.py --model microsoft/resnet-18 --size 224 --out small.onnx --calibration photos/

Without arguments it builds a small ResNet from a configuration, with random weights, so that nothing is downloaded.
Such a network has no accuracy to lose: it shows that the steps fit together.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort

import lbyl_onnx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="an image classifier: a name on the hub, or a folder")
    parser.add_argument("--size", type=int, default=64, help="height and width of images")
    parser.add_argument("--macs", type=float, default=0.7, help="share of the multiply-accumulates to keep")
    parser.add_argument("--calibration", default="photos", help="a folder of images of your own")
    parser.add_argument("--out", type=Path, help="where the compressed model goes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        exported = export(given.model or random_resnet(Path(folder, "random")), Path(folder, "exported"))
        shape = (1, 3, given.size, given.size)
        result = lbyl_onnx.compress(
            exported, target={"macs": given.macs}, calibration=given.calibration, shapes={"pixel_values": shape}
        )
        out = given.out or Path(folder, "small.onnx")
        lbyl_onnx.save(result, out)
        images = np.random.default_rng(0).standard_normal((4, *shape[1:])).astype(np.float32)
        sessions = [ort.InferenceSession(str(path)) for path in (exported, out)]
        shapes = [session.run(["logits"], {"pixel_values": images})[0].shape for session in sessions]
    before, after = result.report.input, result.report.output
    (logits,) = result.report.validation.outputs
    print(f"{before.macs:,} multiply-accumulates became {after.macs:,}, {before.bytes:,} bytes {after.bytes:,}")
    print(f"logits had the shape {shapes[0]} and have {shapes[1]}, {logits.sqnr_db:.1f} dB of signal over error")


def random_resnet(folder: Path) -> str:
    """A folder with a ResNet of two stages for ten classes, as `from_pretrained` reads it."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2], layer_type="basic", num_labels=10)
    ResNetForImageClassification(config).eval().save_pretrained(folder)
    return str(folder)


def export(model: str, folder: Path) -> Path:
    """The ONNX file that Optimum makes of a model."""
    from optimum.exporters.onnx import main_export

    main_export(model, folder, task="image-classification", no_post_process=True)
    return folder / "model.onnx"


if __name__ == "__main__":
    main()
