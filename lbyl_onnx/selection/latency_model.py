"""How long a model would take with fewer units, from a few cut models that were timed kernel by kernel.

Multiply-accumulates are not time: kernels work on blocks of channels, numbers that are no multiple of 4 leave
onnxruntime's blocked layout, and small layers are all overhead. So nothing about kernels is assumed but that a layer
whose axes are about as long, and divide as well, takes about as long in proportion to its work.

1. Nodes fall into regions: a node that multiplies, pools or moves, and the nodes behind it that leave the shape as it
   is and may be fused with it. Kernels are told apart by names; those that onnxruntime inserts (a change of layout)
   count for the region that takes what they make.
2. The whole model and SAMPLES cut ones, at many shares and multiples, are profiled in turns with the whole one.
3. A region's time is the mean of its times in these, each scaled by the work; the more alike its axes are, the more
   it counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..calibration.inputs import input_specs
from ..calibration.synthetic import synthetic_inputs
from ..channels.costs import ChannelAxes, Products, Term
from ..channels.groups import Analysis
from ..channels.macs import Shapes, mac_factors
from ..channels.surgery import cut
from ..errors import ModelError
from ..model.graph import GraphIndex
from ..model.model import Model
from ..model.profiling import Kernel, Profile, profile
from ..model.providers import block_of
from ..model.session import open_session
from ..options import RunOptions, SampleOptions

SAMPLES = 24
ALIGNMENT = 4
"""Channels come in multiples of this in onnxruntime's blocked layout."""
MACS_PER_ELEMENT, MACS_PER_REGION = 32.0, 3e5
"""Work of an element that is read or written, and of running anything at all, in multiply-accumulates."""
UNLIKE, NARROW = 1.0, 0.2
"""Distance of two axes of which one divides better, against one for each doubling; and how fast weights fall off."""
_MADE_UP = re.compile(r"^(fused |InsertedPrecisionFreeCast_)|(_nchwc)?(_token_\d+)?$")


@dataclass(frozen=True)
class _Regions:
    """`of`: the region of each node; `axes`: the numbers of the axes that each region's work depends on."""

    of: list[int]
    work: Products
    owner: np.ndarray
    axes: list[np.ndarray]


class LatencyModel:
    """Milliseconds that one run of one sample (of a whole batch where that is fixed) would take, measured here.

    `movable`: the groups that may lose units, bool (groups,). Raises ModelError where onnxruntime refuses the whole
    model, UsageError where the provider cannot be had.
    """

    def __init__(self, analysis: Analysis, options: RunOptions, movable: np.ndarray, seed: int = 0) -> None:
        self._axes = ChannelAxes(analysis)
        self._block = block_of(options)
        self._regions = _regions(analysis, self._axes)
        removed = _samples(analysis, movable, self._block, np.random.default_rng(seed))
        self._measure(analysis, options, removed)

    def milliseconds(self, removed: np.ndarray) -> np.ndarray:
        """float64 (...,) for `removed`, units that go, (..., groups), groups in the analysis' order."""
        lengths = self._axes.lengths(removed)
        work, alike = self._work(lengths), self._described(lengths)
        total = np.full(lengths.shape[:-1], self._rest)
        for region, axes in self._moving.items():
            pairs = zip(alike, self._alike, strict=True)
            doublings, divides = (each[..., None, axes] - known[:, axes] for each, known in pairs)
            distance = np.abs(doublings).sum(-1) + UNLIKE * (divides != 0).sum(-1)
            weights = np.exp((distance.min(-1, keepdims=True) - distance) / NARROW)
            scaled = weights @ (self._times[:, region] / self._known_work[:, region])
            total += work[..., region] * scaled / weights.sum(-1)
        return self._scale * total

    def _measure(self, analysis: Analysis, options: RunOptions, removed: np.ndarray) -> None:
        """Profile the whole model and those that have lost `removed`, (samples, groups), the first of which is zero."""
        model, index = analysis.model, GraphIndex(analysis.model)
        feed = _feed(analysis)
        whole = open_session(model, options)
        known: list[np.ndarray] = []
        found: list[Profile] = []
        for counts in removed:
            try:
                found.append(profile(_named(_cut(analysis, counts)), whole, feed, options))
            except ModelError:
                if not known:
                    raise
                continue
            known.append(counts)
        reference = float(np.median([each.reference for each in found]))
        times = np.array([_times(each, index, self._regions) for each in found])
        times *= reference / np.array([each.reference for each in found])[:, None]
        times[0] *= reference / times[0].sum()  # one and the same model
        lengths = self._axes.lengths(np.array(known))
        self._known_work, self._alike = self._work(lengths), self._described(lengths)
        self._moving = {region: axes for region, axes in enumerate(self._regions.axes) if len(axes)}
        fixed = np.setdiff1d(np.arange(times.shape[1]), list(self._moving))
        self._times, self._rest = times, float(times[:, fixed].mean(axis=0).sum())
        self._scale = 1.0
        self._scale = reference / float(self.milliseconds(removed[0]))

    def _work(self, lengths: np.ndarray) -> np.ndarray:
        """Work of each region, (..., regions), in multiply-accumulates, on axes padded as the kernels pad them."""
        products = self._regions.work.each(self._padded(lengths))
        return MACS_PER_REGION + products @ self._regions.owner

    def _padded(self, lengths: np.ndarray) -> np.ndarray:
        padded = np.where(lengths % ALIGNMENT == 0, np.ceil(lengths / self._block) * self._block, lengths)
        padded[..., -1] = 1
        return padded

    def _described(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is compared of axes: the logarithms of their padded lengths, and how well these divide."""
        divides = (lengths % ALIGNMENT == 0) * 1.0 + (lengths % self._block == 0) + 4 * (lengths < self._block)
        return np.log2(np.maximum(self._padded(lengths), 1)), divides


def _regions(analysis: Analysis, axes: ChannelAxes) -> _Regions:
    shapes = {name: facts.shape for name, facts in analysis.probe.tensors.items()}
    index = GraphIndex(analysis.model)
    of: list[int] = []
    terms: list[Term] = []
    owners: list[int] = []
    for number, node in enumerate(index.nodes):
        macs = mac_factors(node, shapes)
        latest = max((index.numbers[name] for name in node.input if name in index.numbers), default=-1)
        follows = latest >= 0 and not macs and _same_shape(index, latest, number, shapes)
        of.append(of[latest] if follows else max(of, default=-1) + 1)
        moved = [name for name in dict.fromkeys([*node.input, *node.output]) if name in shapes]
        own = [(axes.all_of(name), MACS_PER_ELEMENT) for name in moved] + ([(macs, 1.0)] if macs else [])
        terms += own
        owners += [of[-1]] * len(own)
    work = axes.products(terms)
    owner = np.array(owners)[:, None] == np.arange(max(of, default=-1) + 1)
    none = work.axes.max(initial=-1) + 1
    numbers = [np.setdiff1d(work.axes[owner[:, region]], [-1, none]) for region in range(owner.shape[1])]
    return _Regions(of, work, owner.astype(np.float64), numbers)


def _same_shape(index: GraphIndex, before: int, number: int, shapes: Shapes) -> bool:
    made, makes = (index.nodes[each].output[0] for each in (before, number))
    return shapes.get(made, ()) == shapes.get(makes) and len(index.nodes[number].output) == 1


def _samples(analysis: Analysis, movable: np.ndarray, block: int, rng: np.random.Generator) -> np.ndarray:
    """Units that go, int64 (SAMPLES + 1, groups): none, then shares of each group, left in multiples of one number for
    all groups or of one of its own."""
    units = np.array([group.units for group in analysis.groups])
    most = np.array([min(int(group.free.sum()), group.units - 1) for group in analysis.groups]) * movable
    removed = [np.zeros(len(units), np.int64)]
    for number in range(SAMPLES):
        shares = np.full(len(units), rng.uniform(0.1, 0.8)) if number % 2 else rng.uniform(0, 0.8, len(units))
        choices = (block, block // 2, 1)
        multiples = rng.choice(choices, len(units)) if number % 4 == 3 else choices[number % 3]
        left = np.ceil(units * (1 - shares) / multiples) * multiples
        removed.append(np.clip(units - left, 0, most).astype(np.int64))
    return np.array(removed)


def _cut(analysis: Analysis, removed: np.ndarray) -> Model:
    kept = np.ones(analysis.classes.count, bool)
    for group, count in zip(analysis.groups, removed, strict=True):
        free = group.classes[group.free]
        kept[free[np.linspace(0, len(free), count, endpoint=False, dtype=np.int64)]] = False
    return cut(analysis, kept)


def _named(model: Model) -> Model:
    """Name every node like what it makes, as kernels are found again by names."""
    for node in model.proto.graph.node:
        node.name = next(name for name in node.output if name)
    return model


def _times(found: Profile, index: GraphIndex, regions: _Regions) -> np.ndarray:
    """Milliseconds of each region, and last of what belongs to none."""
    owners = [_region(kernel, index, regions) for kernel in found.kernels]
    times = np.zeros(len(regions.axes) + 1)
    for position, kernel in enumerate(found.kernels):
        owner = owners[position]
        if owner is None:
            takers = zip(found.kernels[position:], owners[position:], strict=True)
            owner = next((region for taker, region in takers if region is not None and _takes(taker, kernel)), -1)
        times[owner] += kernel.milliseconds
    return times


def _region(kernel: Kernel, index: GraphIndex, regions: _Regions) -> int | None:
    number = index.numbers.get(kernel.name, index.numbers.get(_MADE_UP.sub("", kernel.name)))
    return None if number is None else regions.of[number]


def _takes(taker: Kernel, kernel: Kernel) -> bool:
    return any(shape in taker.takes for shape in kernel.makes)


def _feed(analysis: Analysis) -> dict[str, np.ndarray]:
    shapes = {spec.name: analysis.probe.tensors[spec.name].shape for spec in input_specs(analysis.model)}
    return synthetic_inputs(analysis.model, 1, SampleOptions(shapes=shapes))
