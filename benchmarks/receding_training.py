"""Small networks on small images, trained with a penalty on scales: what benchmarks/receding.py prunes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from material import images
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from lbyl_onnx.training import bounded, l1, parameter_groups, receding

STEPS, BATCH, RATE, DECAY = 1200, 16, 0.1, 5e-4
TRAINED = {"digits": 1200, "fashion": 4000, "cifar10": 1500}
"""Images that train."""
SPLIT = 0
"""Seed of what is for training and what for the test."""


@dataclass(frozen=True)
class Task:
    """One network to train. `penalty`: "none", "l1" or "receding"; `settings`: what it is called with; `seed`: of the
    first weights and the order of the batches; `tuning`: leave the test images alone, and judge by a third of the
    training images, which does not train."""

    data: str
    network: str
    penalty: str
    settings: tuple[float, ...]
    seed: int
    tuning: bool = False


@dataclass(frozen=True)
class Images:
    """Images, float32 (images, channels, height, width), and labels, int64 (images,)."""

    pixels: np.ndarray
    labels: np.ndarray

    def __getitem__(self, which: np.ndarray | slice) -> Images:
        return Images(self.pixels[which], self.labels[which])


def labelled(data: str) -> Images:
    """All labelled images of a data set."""
    if data == "digits":
        found = load_digits()
        return Images((found.images[:, None] / 8 - 1).astype(np.float32), found.target.astype(np.int64))
    shared = images({"fashion": "fashion_mnist_test", "cifar10": "cifar10_eval"}[data])
    assert shared.labels is not None
    return Images(F.avg_pool2d(torch.from_numpy(shared.images), 2).numpy(), shared.labels)


def split(data: str, tuning: bool) -> tuple[Images, Images]:
    """The images that train, and those that accuracies are of; the same for all seeds of a task."""
    every = labelled(data)
    mixed = every[np.random.default_rng(SPLIT).permutation(len(every.labels))]
    known, test = mixed[: TRAINED[data]], mixed[TRAINED[data] :]
    third = TRAINED[data] // 3
    return (known[third:], known[:third]) if tuning else (known, test)


def convolution(channels: int, filters: int, stride: int = 1, kernel: int = 3) -> list[nn.Module]:
    """A convolution with BatchNormalization."""
    return [nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(filters)]


def vgg(channels: int) -> nn.Module:
    """32, 64, 128 and 128 filters, pooled after the first and the second."""
    layers: list[nn.Module] = []
    for index, filters in enumerate((32, 64, 128, 128)):
        layers += [*convolution(channels, filters), nn.ReLU(), *([nn.MaxPool2d(2)] if index < 2 else [])]
        channels = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        inner = [*convolution(channels, filters, stride), nn.ReLU(), *convolution(filters, filters)]
        self.inner = nn.Sequential(*inner)
        same = stride == 1 and channels == filters
        self.shortcut = nn.Identity() if same else nn.Sequential(*convolution(channels, filters, stride, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.inner(x) + self.shortcut(x))


def resnet(channels: int) -> nn.Module:
    """Three blocks of 24, 48 and 96 filters; only units inside of blocks go."""
    blocks = [Block(24, 24, 1), Block(24, 48, 2), Block(48, 96, 2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10)]
    return nn.Sequential(*convolution(channels, 24), nn.ReLU(), *blocks, *head)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {"vgg": vgg, "resnet": resnet}


def train(task: Task, known: Images) -> nn.Module:
    """The network after `STEPS` of stochastic gradient descent, in evaluation mode."""
    torch.manual_seed(task.seed)
    network = NETWORKS[task.network](known.pixels.shape[1])
    if task.penalty == "receding":
        groups = parameter_groups(bounded(network), RATE, DECAY)
    else:
        groups = [{"params": list(network.parameters()), "lr": RATE, "weight_decay": DECAY}]
    optimiser = torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    penalty = {"none": lambda network: 0.0, "l1": l1, "receding": receding}[task.penalty]
    for image, labels in batches(known):
        loss = F.cross_entropy(network(shifted(image)), labels) + penalty(network, *task.settings)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def batches(known: Images) -> Iterator[tuple[Tensor, Tensor]]:
    """`STEPS` batches of images and labels, in a new order in each epoch."""
    image, labels = torch.from_numpy(known.pixels), torch.from_numpy(known.labels)
    whole = len(image) // BATCH
    for step in range(STEPS):
        if step % whole == 0:
            order = torch.randperm(len(image))
        batch = order[step % whole * BATCH :][:BATCH]
        yield image[batch], labels[batch]


def shifted(image: Tensor) -> Tensor:
    """The images (N, C, H, W), all shifted by the same zero to one pixel along both axes."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(image, (down, right), (2, 3))
