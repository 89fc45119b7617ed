"""Time and memory that the analysis of a large graph takes.

    python benchmarks/scale.py [--nodes 5000] [--channels 64]

The graph is a residual network (Conv, BatchNormalization, Relu, Add; some blocks with an attention over channels that
takes its sizes from Shape). It is written to a file, read and analysed in a process of its own. Peak memory is that
process's, less what it takes once all is imported; the limit is three times the file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def network(nodes: int, channels: int) -> onnx.ModelProto:
    """A network of about `nodes` nodes on maps of `channels` x 8 x 8."""
    rng = np.random.default_rng(0)
    made: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(value, f"w{len(weights)}"))
        return weights[-1].name

    def node(op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op.lower()}_{len(made)}"
        made.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def conv(x: str, taken: int, kernel: int = 3) -> str:
        filters = rng.standard_normal((channels, taken, kernel, kernel)) / (kernel * np.sqrt(taken))
        x = node("Conv", x, constant(filters.astype(np.float32)), pads=[kernel // 2] * 4)
        return node("BatchNormalization", x, *(constant(np.ones(channels, np.float32)) for _ in range(4)))

    def gated(x: str) -> str:
        channel_count = node("Gather", node("Shape", x), constant(np.array([1])))
        shape = node("Concat", constant(np.array([0])), channel_count, constant(np.array([1, 1])), axis=0)
        gate = node("Reshape", node("Sigmoid", node("GlobalAveragePool", x)), shape)
        return node("Mul", x, gate)

    x = conv("x", 3)
    while len(made) < nodes:
        branch = conv(node("Relu", conv(node("Relu", x), channels)), channels)
        x = node("Add", x, gated(branch) if len(weights) % 10 == 0 else branch)
    out = conv(x, channels, 1)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    result = helper.make_tensor_value_info(out, TensorProto.FLOAT, ["N", channels, 8, 8])
    graph = helper.make_graph(made, "graph", [image], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(path: str) -> dict[str, float]:
    """Seconds of each stage, peak memory in bytes beyond that of the imports, and what was found."""
    from lbyl_onnx import load
    from lbyl_onnx.channels.groups import analyse
    from lbyl_onnx.channels.probe import probe
    from lbyl_onnx.model.initializers import unshare

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = [time.perf_counter()]
    model = unshare(load(path))[0]
    times.append(time.perf_counter())
    found = probe(model)
    times.append(time.perf_counter())
    analysis = analyse(model, found)
    times.append(time.perf_counter())
    seconds = np.diff(times).tolist()
    peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    counts = {"nodes": len(model.proto.graph.node), "groups": len(analysis.groups), "peak": peak}
    return dict(zip(("load", "probe", "analyse"), seconds, strict=True), **counts)


def main() -> None:
    """Print what loading, probing and analysing took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        onnx.save(network(options.nodes, options.channels), options.write)
    elif options.measure:
        print(json.dumps(measure(options.measure)))
    else:
        _report(options.nodes, options.channels)


def _report(nodes: int, channels: int) -> None:
    """Write and measure in processes of their own: what this one holds would count as theirs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        sizes = ["--nodes", str(nodes), "--channels", str(channels)]
        subprocess.run([sys.executable, __file__, *sizes, "--write", str(path)], check=True)
        command = [sys.executable, __file__, "--measure", str(path)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        size = path.stat().st_size
    total = found["load"] + found["probe"] + found["analyse"]
    print(f"{found['nodes']} nodes, {found['groups']} groups, file of {size / 1e6:.0f} MB")
    print(f"load {found['load']:.2f} s, probe {found['probe']:.2f} s, analyse {found['analyse']:.2f} s: {total:.2f} s")
    print(f"peak memory {found['peak'] / 1e6:.0f} MB, {found['peak'] / size:.2f} times the file")


if __name__ == "__main__":
    main()
