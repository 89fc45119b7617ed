"""Networks that are trained to be pruned: accuracy after one-shot global pruning, by the penalty that they were trained
with; the table of docs/training.md. `--quick` takes a minute; how long all of it takes has not been measured.

    python benchmarks/receding.py [--quick] [--networks vgg] [--seeds 3] [--plot docs/receding.png]
    python benchmarks/receding.py --tune

Small networks on small images: a part of the labelled images trains, the rest (drawn by a seed) is what accuracies are
of. Nothing is fine-tuned. Digits of scikit-learn are 8 x 8 (1,797 images, 1,200 train); Fashion-MNIST (10,000 images,
2,000 train) and CIFAR-10 (2,000 images, 1,500 train) of the shared material are halved to 14 x 14 and 16 x 16. `none,
uniform` is plain training where every group loses the same share by l2; all others lose the units of least |scale| in
the whole network.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))  # one process on each core

import numpy as np
import torch
from material import images
from receding_chart import plot
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from lbyl_onnx import NothingToRemove, compress, load
from lbyl_onnx.model.model import Model
from lbyl_onnx.model.session import open_session, run_batches
from lbyl_onnx.options import RunOptions
from lbyl_onnx.training import bounded, fold, importances, l1, parameter_groups, receding

RATIOS = (0.3, 0.5, 0.7, 0.9)
TUNING_SEED = 100
CALIBRATION = 256
RATE, DECAY, BATCH = 0.1, 5e-4, 32
TRAINED = {"digits": (1200, 15), "fashion": (2000, 9), "cifar10": (1500, 12)}
"""Images that train, and epochs: 550 steps."""
PENALTIES = {
    "vgg": {"l1": (0.015,), "receding": (0.15, 1.0)},
    "resnet": {"l1": (0.003,), "receding": (0.01, 0.0)},
}
"""Strength, and b, chosen by hand on digits: what keeps most of 70 % and costs no point before; the residual network's
at another batch size. The paper's strengths are for 200 times as many steps."""
TRIED = {
    "l1": [(0.003,), (0.01,), (0.015,), (0.02,), (0.03,)],
    "receding": [(0.1, 1.0), (0.15, 1.0), (0.15, 1.5), (0.2, 1.5), (0.1, 2.0), (0.2, 2.0), (0.01, 0.0), (0.003, 0.0)],
}


def pixels(data: str) -> tuple[np.ndarray, np.ndarray]:
    """All labelled images of a data set, float32 (images, channels, height, width), and labels, int64 (images,)."""
    if data == "digits":
        found = load_digits()
        return (found.images[:, None] / 8 - 1).astype(np.float32), found.target.astype(np.int64)
    labelled = images({"fashion": "fashion_mnist_test", "cifar10": "cifar10_eval"}[data])
    assert labelled.labels is not None
    return F.avg_pool2d(torch.from_numpy(labelled.images), 2).numpy(), labelled.labels


def convolution(channels: int, filters: int, stride: int = 1, kernel: int = 3) -> list[nn.Module]:
    """A convolution with BatchNormalization."""
    return [nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(filters)]


def vgg(channels: int) -> nn.Module:
    """Twice 16, 32 and 64 filters, pooled in between."""
    layers: list[nn.Module] = []
    for index, filters in enumerate((16, 16, 32, 32, 64, 64)):
        layers += [*convolution(channels, filters), nn.ReLU(), *([nn.MaxPool2d(2)] if index in (1, 3) else [])]
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
    """Three stages of two blocks; only units inside of blocks go."""
    blocks = [
        Block(16, 16, 1),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 32, 1),
        Block(32, 64, 2),
        Block(64, 64, 1),
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*convolution(channels, 16), nn.ReLU(), *blocks, *head)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {"vgg": vgg, "resnet": resnet}


@dataclass(frozen=True)
class Task:
    """One network to train. `penalty`: "none", "l1" or "receding"; `settings`: what it is called with."""

    data: str
    network: str
    penalty: str
    seed: int
    settings: tuple[float, ...]
    epochs: int


@dataclass(frozen=True)
class Found:
    """Accuracies on the images that were not trained on, in per cent: `before`, and `after` by allocation, ratio and
    restoration. `scales`: float32 (channels,), of all BatchNormalization; `auto`: the share of units that ratio auto
    removed, None where it found no gap."""

    task: Task
    before: float
    after: dict[tuple[str, float | str, str], float]
    scales: np.ndarray
    auto: float | None


def train(task: Task, image: Tensor, labels: Tensor) -> nn.Module:
    """The network after `task.epochs` of stochastic gradient descent, as in the paper's code, in evaluation mode."""
    torch.manual_seed(task.seed)
    network = NETWORKS[task.network](image.shape[1])
    if task.penalty == "receding":
        groups = parameter_groups(bounded(network), RATE, DECAY)
    else:
        groups = [{"params": list(network.parameters()), "lr": RATE, "weight_decay": DECAY}]
    optimiser = torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    steps = task.epochs * (len(image) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    penalties = {
        "none": lambda: 0.0,
        "l1": lambda: l1(network, *task.settings),
        "receding": lambda: receding(network, *task.settings),
    }
    for _ in range(task.epochs):
        for batch in torch.randperm(len(image))[: len(image) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(network(shifted(image[batch])), labels[batch]) + penalties[task.penalty]()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def shifted(image: Tensor) -> Tensor:
    """The images (N, C, H, W), all shifted by the same zero to one pixel along both axes."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(image, (down, right), (2, 3))


def exported(network: nn.Module, shape: tuple[int, ...]) -> Model:
    """The network as ONNX model, BatchNormalization kept."""
    path = Path(os.environ.get("TMPDIR", "/tmp"), f"receding-{os.getpid()}.onnx")
    try:
        torch.onnx.export(
            copy.deepcopy(network),
            (torch.zeros(1, *shape),),
            path,
            input_names=["image"],
            dynamic_axes={"image": {0: "batch"}},
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            dynamo=False,
        )
        return load(path.read_bytes())
    finally:
        path.unlink(missing_ok=True)


def measure(task: Task, ratios: tuple[float, ...] = RATIOS) -> Found:
    """Train one network, prune it in all ways, and see what it is still right about."""
    torch.set_num_threads(1)
    image, labels = pixels(task.data)
    order = np.random.default_rng(task.seed).permutation(len(image))
    known, new = np.split(order, [TRAINED[task.data][0]])
    network = train(task, torch.from_numpy(image[known]), torch.from_numpy(labels[known]))
    model = exported(fold(network), image.shape[1:])

    def accuracy(judged: Model) -> float:
        logits = run_batches(open_session(judged, RunOptions("cpu", 1)), {"image": image[new]})[0]
        return 100 * float((logits.argmax(axis=1) == labels[new]).mean())

    given = {"image": image[known][:CALIBRATION]}
    ways = [("global", "bn-scale"), *([("uniform", "l2")] if task.penalty == "none" else [])]
    after: dict[tuple[str, float | str, str], float] = {}
    auto = None
    for allocation, criterion in ways:
        for ratio in (*ratios, *(["auto"] if allocation == "global" else [])):
            for restore in ("none", "moments"):
                try:
                    result = compress(
                        model, ratio, criterion=criterion, allocation=allocation, restore=restore, calibration=given,
                        threads=1, validation=False,
                    )  # fmt: skip
                except NothingToRemove:
                    continue
                after[allocation, ratio, restore] = accuracy(result.compressed)
                if ratio == "auto":
                    groups = [each for each in result.report.groups if each.frozen_reason is None]
                    units = sum(each.units_before for each in groups)
                    auto = 1 - sum(each.units_after for each in groups) / units
    return Found(task, accuracy(model), after, importances(network).numpy(), auto)


def measured(tasks: Iterable[Task]) -> Iterable[Found]:
    """All tasks, two at a time."""
    with ProcessPoolExecutor(2) as pool:
        yield from pool.map(measure, tasks)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}" if values else "-"


def table(found: list[Found]) -> None:
    """A row for each network, data set and penalty."""
    columns = " | ".join(["network, data", "penalty", "before", *(f"{ratio:.0%}" for ratio in RATIOS), "auto"])
    print(f"| {columns} |\n|{' --- |' * (len(RATIOS) + 4)}")
    for network, data in dict.fromkeys((each.task.network, each.task.data) for each in found):
        for penalty, allocation in (("none", "uniform"), ("none", "global"), ("l1", "global"), ("receding", "global")):
            wanted = (network, data, penalty)
            runs = [each for each in found if (each.task.network, each.task.data, each.task.penalty) == wanted]
            named = penalty if allocation == "global" else f"{penalty}, uniform"
            print(f"| {network}, {data} | {named} | {' | '.join(row(runs, allocation))} |", flush=True)


def row(runs: list[Found], allocation: str) -> list[str]:
    """Mean and spread over the seeds: accuracy before, and after by ratio, cut only / restored; what auto does, the
    share that it takes, and in how many of the networks it finds a gap."""
    cells = [spread([run.before for run in runs])]
    for ratio in (*RATIOS, "auto"):
        ways = [(allocation, ratio, restore) for restore in ("none", "moments")]
        cells.append(" / ".join(spread([run.after[way] for run in runs if way in run.after]) for way in ways))
    gaps = [run.auto for run in runs if run.auto is not None]
    if allocation == "uniform" or not gaps:
        return [*cells[:-1], "" if allocation == "uniform" else "no gap"]
    return [*cells[:-1], f"{np.mean(gaps):.0%}: {cells[-1]} ({len(gaps)} of {len(runs)})"]


def tune() -> None:
    """What digits are right about before pruning and after 70 %, restored, by settings of a penalty; a seed that the
    table does not use."""
    tasks = [
        Task("digits", network, penalty, TUNING_SEED, settings, TRAINED["digits"][1])
        for network in NETWORKS
        for penalty, tried in {"none": [()], **TRIED}.items()
        for settings in tried
    ]
    for task, each in zip(tasks, measured(tasks), strict=True):
        after = each.after["global", 0.7, "moments"]
        print(f"{task.network:8}{task.penalty:10}{task.settings!s:12}{each.before:6.1f}{after:6.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--networks", nargs="+", default=tuple(NETWORKS), choices=tuple(NETWORKS))
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--quick", action="store_true", help="one seed of the VGG on digits")
    parser.add_argument("--tune", action="store_true", help="strengths of the penalties")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    if options.tune:
        return tune()
    tasks = [
        Task(data, network, penalty, seed, PENALTIES[network].get(penalty, ()), TRAINED[data][1])
        for network in (("vgg",) if options.quick else options.networks)
        for data in (("digits",) if options.quick else TRAINED)
        for seed in range(1 if options.quick else options.seeds)
        for penalty in ("none", "l1", "receding")
    ]
    found = list(measured(tasks))
    table(found)
    print(f"\n{time.perf_counter() - started:.0f} s")
    if options.plot:
        plot(found, RATIOS, options.plot)


if __name__ == "__main__":
    main()
