"""PyTorch's networks as ONNX models, as trained: for tests and benchmarks of lbyl_onnx.training."""

import io

import torch
from torch import nn

from lbyl_onnx import load
from lbyl_onnx.model.model import Model


def exported(network: nn.Module, shape: tuple[int, ...]) -> Model:
    """The network as ONNX model of batches of `shape`, its input named image, BatchNormalization kept."""
    file = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.zeros(1, *shape),),
        file,
        input_names=["image"],
        dynamic_axes={"image": {0: "batch"}},
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )
    return load(file.getvalue())
