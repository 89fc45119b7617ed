"""Train the example digit classifiers and export them to ONNX.

Writes four models and the held-out split on which their accuracy is measured:

    digits_cnn.onnx         plain convolution chain, BatchNormalization nodes kept
    digits_cnn_folded.onnx  the same weights with BatchNormalization folded into Conv
    digits_resnet.onnx      residual network, BatchNormalization nodes kept
    digits_receding.onnx    convolution chain trained to be pruned, BatchNormalization nodes kept
    digits_eval.npz         image (N, 1, 8, 8) float32 in [0, 1] and labels (N,) int64
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F
from torch.onnx import TrainingMode

from lbyl_onnx.training import bounded, fold, parameter_groups, receding

CLASSES = 10
OPSET = 17
RATE = 5e-3
STRENGTH, SHIFT = 0.003, 1.0
"""Of the penalty: `receding`."""


def load_split(seed: int) -> list[np.ndarray]:
    """Return train images, held-out images, train labels, held-out labels; images are (N, 1, 8, 8)."""
    digits = load_digits()
    image = (digits.images / 16).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    return train_test_split(image, labels, test_size=1 / 3, stratify=labels, random_state=seed)


class ConvBN(nn.Module):
    """Convolution and batch normalization: (N, in_channels, H, W) to (N, filters, H/stride, W/stride)."""

    def __init__(self, in_channels: int, filters: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, filters, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(filters)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class PlainNetwork(nn.Module):
    """Three convolutions and a two-layer head: (N, 1, 8, 8) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = ConvBN(1, 32)
        self.layer2 = ConvBN(32, 64)
        self.layer3 = ConvBN(64, 64)
        self.hidden = nn.Linear(64 * 4 * 4, 64)
        self.classifier = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.layer1(x))
        x = F.max_pool2d(F.relu(self.layer2(x)), 2)
        x = F.relu(self.layer3(x)).flatten(1)
        return self.classifier(F.relu(self.hidden(x)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions plus a shortcut: (N, in_channels, H, W) to (N, filters, H/stride, W/stride)."""

    def __init__(self, in_channels: int, filters: int, stride: int = 1) -> None:
        super().__init__()
        self.layer1 = ConvBN(in_channels, filters, stride=stride)
        self.layer2 = ConvBN(filters, filters)
        if stride == 1 and in_channels == filters:
            self.shortcut: nn.Module = nn.Identity()
        else:
            self.shortcut = ConvBN(in_channels, filters, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.layer2(F.relu(self.layer1(x)))
        return F.relu(residual + self.shortcut(x))


class ResidualNetwork(nn.Module):
    """Stem, three stages of two basic blocks, global average pool: (N, 1, 8, 8) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(1, 16)
        self.stage1 = nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 16))
        self.stage2 = nn.Sequential(BasicBlock(16, 32, stride=2), BasicBlock(32, 32))
        self.stage3 = nn.Sequential(BasicBlock(32, 64, stride=2), BasicBlock(64, 64))
        self.classifier = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


class RecedingNetwork(nn.Module):
    """Four convolutions, each with bounded BatchNormalization, and global average pool: (N, 1, 8, 8) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = ConvBN(1, 32)
        self.layer2 = ConvBN(32, 64)
        self.layer3 = ConvBN(64, 64)
        self.layer4 = ConvBN(64, 64)
        self.classifier = nn.Linear(64, CLASSES)
        bounded(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.layer2(F.relu(self.layer1(x)))), 2)
        x = F.relu(self.layer4(F.relu(self.layer3(x))))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def augment(image: Tensor) -> Tensor:
    """Shift each image of (N, 1, 8, 8) by up to one pixel along both axes and add slight noise."""
    offset = torch.randint(0, 3, (2, len(image), 1))
    rows, columns = offset + torch.arange(8)
    padded = F.pad(image, (1, 1, 1, 1))[:, 0]
    shifted = padded[torch.arange(len(image))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return (shifted + 0.03 * torch.randn_like(shifted)).clamp(0, 1)[:, None]


def train(network: nn.Module, image: Tensor, labels: Tensor, epochs: int, batch_size: int = 64) -> None:
    """Fit the network to images (N, 1, 8, 8) and labels (N,); leaves it in evaluation mode."""
    network.train()
    batches = len(image) // batch_size
    recedes = isinstance(network, RecedingNetwork)
    groups = parameter_groups(network, RATE, 1e-2) if recedes else [{"params": network.parameters(), "lr": RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-2)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=epochs * batches)
    for _ in range(epochs):
        order = torch.randperm(len(image))[: batches * batch_size]
        for batch in order.split(batch_size):
            loss = F.cross_entropy(network(augment(image[batch])), labels[batch], label_smoothing=0.05)
            if recedes:
                loss = loss + receding(network, STRENGTH, SHIFT)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def export(network: nn.Module, path: Path, fold_batch_norm: bool = False) -> None:
    """Write a network in evaluation mode to ONNX with input `image` and output `logits`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, 8, 8),),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
            training=TrainingMode.EVAL if fold_batch_norm else TrainingMode.PRESERVE,
            do_constant_folding=fold_batch_norm,
            dynamo=False,
        )


def count_parameters(path: Path) -> int:
    """Number of values in the initializers of an ONNX file, batch-normalization statistics included."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return sum(onnx.numpy_helper.to_array(tensor).size for tensor in model.graph.initializer)


def measure_accuracy(path: Path, image: np.ndarray, labels: np.ndarray) -> float:
    """Fraction of images (N, 1, 8, 8) whose largest logit is at the label, run by onnxruntime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": image})
    return float((logits.argmax(axis=1) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digit classifiers and export them to ONNX.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    train_image, eval_image, train_labels, eval_labels = load_split(options.seed)
    np.savez_compressed(options.out / "digits_eval.npz", image=eval_image, labels=eval_labels)

    networks: dict[str, nn.Module] = {}
    for name, build in (("cnn", PlainNetwork), ("resnet", ResidualNetwork), ("receding", RecedingNetwork)):
        torch.manual_seed(options.seed)
        networks[name] = build()
        train(networks[name], torch.from_numpy(train_image), torch.from_numpy(train_labels), options.epochs)

    for name, network, fold_batch_norm in (
        ("digits_cnn", networks["cnn"], False),
        ("digits_cnn_folded", networks["cnn"], True),
        ("digits_resnet", networks["resnet"], False),
        ("digits_receding", fold(networks["receding"]), False),
    ):
        path = options.out / f"{name}.onnx"
        export(network, path, fold_batch_norm)
        accuracy = measure_accuracy(path, eval_image, eval_labels)
        print(f"{path.name:24}{count_parameters(path):>9,} parameters{accuracy:>9.2%} of {len(eval_labels)}")


if __name__ == "__main__":
    main()
