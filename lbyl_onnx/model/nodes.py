"""What a graph says in single messages: the names that a node reads, its attributes, what lies in subgraphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx import helper


def reads(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads, in its subgraphs too."""
    names = [name for name in node.input if name]
    for item in node.attribute:
        for graph in [item.g, *item.graphs]:
            names += [name for inner in graph.node for name in reads(inner)]
            names += [output.name for output in graph.output]
    return names


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value, `default` where the node does not state it."""
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a model uses."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def walk(message: Message, kind: type) -> Iterator[Any]:
    """Every message of a kind inside another, at any depth, in subgraphs, functions and attributes, not in tensors."""
    if isinstance(message, kind):
        yield message
    if isinstance(message, onnx.TensorProto):
        return
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for item in (value,) if isinstance(value, Message) else value:
                yield from walk(item, kind)
