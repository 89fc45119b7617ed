"""Networks that are trained to be pruned: accuracy after one-shot global pruning, by the penalty that they were trained
with; the table and plot of docs/training.md. About 20 minutes on two cores.

    python benchmarks/receding.py [--quick] [--plot docs/receding.png]
    python benchmarks/receding.py --tune

Small networks on small images: a part of the labelled images trains, the rest (drawn by a seed) is what accuracies are
of. Nothing is fine-tuned. Digits of scikit-learn are 8 x 8; Fashion-MNIST (10,000 images, 4,000 train) and CIFAR-10 (2,000,
1,500 train) of the shared material are halved to 14 x 14 and 16 x 16. `none, uniform` is plain training where every group
loses the same share by l2; all others lose the units of least |scale| in the whole network.
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
SEEDS = (0, 1, 2)
TUNING_SEED = 100
CALIBRATION = 256
RATE, DECAY, BATCH = 0.1, 5e-4, 64
TRAINED = {"digits": (1200, 40), "fashion": (4000, 10), "cifar10": (1500, 25)}
"""Images that train, and epochs."""
STRENGTHS = {"l1": 1e-3, "receding": 1e-2}
SHIFT = {"vgg": 3.0, "resnet": 0.0}
"""The paper's b."""


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
    blocks = [Block(16, 16, 1), Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1), Block(32, 64, 2), Block(64, 64, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*convolution(channels, 16), nn.ReLU(), *blocks, *head)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {"vgg": vgg, "resnet": resnet}


@dataclass(frozen=True)
class Task:
    """One network to train. `penalty`: "none", "l1" or "receding"."""

    data: str
    network: str
    penalty: str
    seed: int
    strength: float
    epochs: int


@dataclass(frozen=True)
class Found:
    """Accuracies on the images that were not trained on, in per cent: `before`, and by ratio (or "auto") and restoration
    in `after`; `scales`: float32 (channels,), of all BatchNormalization; `auto`: the share that ratio auto removed, None
    where it found no gap."""

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
        "l1": lambda: l1(network, task.strength),
        "receding": lambda: receding(network, task.strength, SHIFT[task.network]),
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
                    gone = [each for each in result.report.groups if each.reason is None]
                    auto = sum(each.units - each.kept for each in gone) / sum(each.units for each in gone)
    return Found(task, accuracy(model), after, importances(network).numpy(), auto)


def measured(tasks: Iterable[Task]) -> Iterable[Found]:
    """All tasks, two at a time."""
    with ProcessPoolExecutor(2) as pool:
        yield from pool.map(measure, tasks)


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}" if values else "-"


def table(found: list[Found], ratios: tuple[float, ...]) -> None:
    """Mean and spread over the seeds, without restoration / with it."""
    columns = " | ".join(f"{ratio:.0%}" for ratio in ratios)
    print(f"| data, network | penalty | before | {columns} | auto (removed) |\n| --- | --- | --- |{' --- |' * (len(ratios) + 1)}")
    for data, network in dict.fromkeys((each.task.data, each.task.network) for each in found):
        for penalty, allocation in (("none", "uniform"), ("none", "global"), ("l1", "global"), ("receding", "global")):
            runs = [each for each in found if (each.task.data, each.task.network, each.task.penalty) == (data, network, penalty)]

            def cell(ratio: float | str) -> str:
                both = ([run.after[key] for run in runs if (key := (allocation, ratio, way)) in run.after] for way in ("none", "moments"))
                return " / ".join(map(spread, both))

            gaps = [run.auto for run in runs if run.auto is not None and allocation == "global"]
            auto = f"{cell('auto')} ({np.mean(gaps):.0%}, {len(gaps)} of {len(runs)})" if gaps else "no gap"
            cells = " | ".join(cell(ratio) for ratio in ratios)
            named = f"{penalty}, uniform" if allocation == "uniform" else penalty
            print(f"| {data}, {network} | {named} | {spread([run.before for run in runs])} | {cells} | {auto if allocation == 'global' else ''} |")


def tune() -> None:
    """Accuracy of digits before pruning and after 70 %, by strength, of a seed that the table does not use."""
    for network in NETWORKS:
        grid = [("none", 0.0), *(("l1", s) for s in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)), *(("receding", s) for s in (1e-3, 3e-3, 1e-2, 3e-2, 1e-1))]
        for each in measured(Task("digits", network, penalty, TUNING_SEED, strength, 40) for penalty, strength in grid):
            low = float((each.scales < 0.05).mean())
            print(network, each.task.penalty, each.task.strength, f"before {each.before:.1f}", {k[1:]: round(v,1) for k,v in each.after.items() if k[0]=="global" and k[1] in (.7,.9,"auto")}, f"below 0.05: {low:.0%}", each.auto, np.quantile(each.scales,[0,.1,.3,.5,.7,.9]).round(4), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="digits alone, one seed, half the epochs")
    parser.add_argument("--tune", action="store_true", help="strengths of the penalties")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    if options.tune:
        return tune()
    data = ("digits",) if options.quick else tuple(TRAINED)
    tasks = [
        Task(each, network, penalty, seed, STRENGTHS.get(penalty, 0.0), TRAINED[each][1] // (1 + options.quick))
        for each in data
        for network in NETWORKS
        for seed in SEEDS[: 1 if options.quick else None]
        for penalty in ("none", "l1", "receding")
    ]
    found = list(measured(tasks))
    table(found, RATIOS)
    print(f"\n{time.perf_counter() - started:.0f} s")
    if options.plot:
        plot(found, RATIOS, options.plot)


if __name__ == "__main__":
    main()
