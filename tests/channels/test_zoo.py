"""Surgery on exported architectures: every skeleton with random weights equals its masked self."""

import importlib.util
from pathlib import Path

import pytest
from conftest import shared, shared_files
from graphs import assert_equivalent, prune_shared

from lbyl_onnx.model.reading import load


def materialized(path: Path):
    """The skeleton at `path` with weights, by the shared folder's own tool."""
    spec = importlib.util.spec_from_file_location("zoo", shared("tools", "zoo.py"))
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    return load(zoo.materialize(str(path)))


@pytest.mark.slow
@pytest.mark.parametrize("path", shared_files("zoo"), ids=lambda path: path.stem)
def test_skeletons_equal_their_masked_originals(path: Path):
    pruned = prune_shared(materialized(path))
    assert not pruned.kept.all()
    assert_equivalent(pruned, tolerance=1e-3)
