"""Writes a model file, all or nothing, tensor by tensor where weights lie in a file of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from ..errors import ModelError, UsageError, article
from .model import Model, stored_bytes, with_data
from .reading import check_structure, load

INLINE_LIMIT = 2**31 - 2**20
"""Bytes that one model file may hold: protobuf's 2 GiB, less room for framing."""
EXTERNAL_MINIMUM = 1024
"""Bytes from which a weight moves to the data file of a model that exceeds INLINE_LIMIT."""
PAGE, WORD = 4096, 64
"""Where tensors start in a data file: those of MAPPED bytes or more at a page, so that they can be mapped."""
MAPPED = 2**16


class HoldsModel(Protocol):
    """What `compress` returns."""

    @property
    def compressed(self) -> Model: ...


def save(model: Model | onnx.ModelProto | HoldsModel, path: str | Path, force: bool = False) -> None:
    """Writes a model, or the compressed one of a result, to `path`, all or nothing.

    Weights that were external stay external, in one file `<name of path>.data` beside it; in a model of over
    2 GiB every weight of EXTERNAL_MINIMUM bytes or more goes there. A symbolic link stays one: the file that it points
    to is written. Raises UsageError where the target can't be written, exists and `force` is not given, or is a link
    into another folder and weights are external; ModelError where the result is not a valid model.
    """
    if not isinstance(path, str | Path):
        raise UsageError(f"is {article(type(path).__name__)}; expected the path of a file", "path")
    path, model = Path(path), _held(model)
    outside = _external_names(model)
    try:
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        if outside and target != path and not _same(path.parent, target.parent):
            raise UsageError(
                f"{path}: points to {target}, in another folder, where a data file beside it would not be found "
                "through the link; give that path instead"
            )
        _check_target(model, target, force, bool(outside))
        with tempfile.TemporaryDirectory(prefix=".lbyl-onnx-", dir=target.parent.resolve()) as folder:
            written = Path(folder, target.name)
            _write(model, written, outside)
            check_structure(str(written))
            _publish(written, target)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"{path}: cannot be written ({reason}); choose another place") from None


def write_whole(files: Mapping[Path, bytes]) -> None:
    """Write files, all or none; what took the place of another file stays. A symbolic link stays one: the file that it
    points to is written. Raises UsageError."""
    fresh: list[Path] = []
    try:
        for path, content in files.items():
            target = path.resolve() if path.is_symlink() else path
            if not target.parent.exists():
                target.parent.mkdir()
                fresh.append(target.parent)
            with tempfile.TemporaryDirectory(prefix=".lbyl-onnx-", dir=target.parent) as folder:
                draft = Path(folder, target.name)
                draft.write_bytes(content)
                fresh += [] if target.exists() else [target]
                os.replace(draft, target)
    except BaseException as error:
        for made in reversed(fresh):
            made.rmdir() if made.is_dir() else made.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
        raise


def _held(model: object) -> Model:
    """The model that `save` was given. Raises UsageError where it was given none."""
    held = getattr(model, "compressed", model)
    if isinstance(held, Model | onnx.ModelProto):
        return load(held)
    kind = article(type(model).__name__)
    raise UsageError(f"is {kind}; expected what compress returns, a Model or a ModelProto", "model")


def _external_names(model: Model) -> set[str]:
    """Initializers to write to the data file."""
    sizes = {tensor.name: len(tensor.raw_data) for tensor in model.proto.graph.initializer}
    sizes |= {name: array.nbytes for name, array in model.weights.items() if name in sizes}
    outside = {name for name in model.external if sizes.get(name, 0) > 0}
    if model.bytes - sum(sizes[name] for name in outside) > INLINE_LIMIT:
        outside |= {name for name, size in sizes.items() if size >= EXTERNAL_MINIMUM}
    return outside


def _data_path(path: Path) -> Path:
    return path.with_name(path.name + ".data")


def _same(one: Path, other: Path | None) -> bool:
    return other is not None and one.exists() and other.exists() and one.samefile(other)


def _check_target(model: Model, path: Path, force: bool, with_data: bool) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist; create it or choose another")
    overwrites_input = _same(path, model.path)
    inputs = [model.path.parent / name for name in set(model.external.values())] if model.path else []
    for suffix in ("", ".data") if with_data else ("",):
        target = path.parent / (path.name + suffix)
        if target.is_dir():
            raise UsageError(f"{target}: is a folder; give the name of a file")
        if target.exists() and not force:
            what = "is the input model" if overwrites_input else "exists already"
            raise UsageError(f"{target}: {what}; choose another name or overwrite it (--force, force=True)")
        if not overwrites_input and any(_same(target, data) for data in inputs):
            raise UsageError(f"{target}: holds the weights of the input model; choose another name")


def _write(model: Model, path: Path, outside: set[str]) -> None:
    """Writes the model file and, where weights go outside, its data file."""
    entries: dict[str, dict[str, object]] = {}
    data = _data_path(path)
    if outside:
        with data.open("wb") as file:
            for tensor in model.proto.graph.initializer:
                if tensor.name in outside:
                    stored = stored_bytes(model, tensor)
                    file.write(bytes(-file.tell() % _alignment(stored)))
                    offset = file.tell()
                    length = file.write(stored.data)
                    entries[tensor.name] = {"location": data.name, "offset": offset, "length": length}
    proto = with_data(model, entries)
    try:
        content = proto.SerializeToString()
    except (EncodeError, ValueError):
        raise ModelError("the graph without its large weights exceeds 2 GiB, more than ONNX allows") from None
    path.write_bytes(content)


def _alignment(stored: np.ndarray) -> int:
    return PAGE if stored.nbytes >= MAPPED else WORD


def _publish(written: Path, path: Path) -> None:
    """Renames what was written into place, data first; where a rename fails, the earlier one is undone."""
    source, data = _data_path(written), _data_path(path)
    if not source.exists():
        os.replace(written, path)
        return
    previous = written.with_name(path.name + ".previous")
    if data.exists():
        os.replace(data, previous)
    try:
        os.replace(source, data)
        os.replace(written, path)
    except BaseException:
        data.unlink(missing_ok=True)
        if previous.exists():
            os.replace(previous, data)
        raise
