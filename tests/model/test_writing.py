"""Writing models: all or nothing, weights where they were, nothing overwritten by accident."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import Builder
from model_files import B, W, external_model, external_tensor, gemm_model, write_external
from onnx import TensorProto, helper, numpy_helper
from uniform import compress

from lbyl_onnx.errors import ModelError, UsageError
from lbyl_onnx.model import writing
from lbyl_onnx.model.reading import load
from lbyl_onnx.model.writing import save


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model with W in w.bin, 64 bytes in."""
    return external_model(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_everything_but_the_weights_is_preserved(tmp_path):
    proto = gemm_model(value_info=[helper.make_tensor_value_info("B", 1, [4])])
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opset = helper.make_opsetid("", 17)
    proto.functions.append(helper.make_function("my.ops", "Twist", ["a"], ["b"], body, [opset]))
    proto.opset_import.append(helper.make_opsetid("my.ops", 1))
    proto.training_info.add().algorithm.CopyFrom(proto.graph)
    proto.doc_string, proto.producer_name = "a model", "a producer"
    save(load(proto), tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").SerializeToString() == proto.SerializeToString()
    assert list(files(tmp_path)) == ["out.onnx"]
    onnx.checker.check_model(str(tmp_path / "out.onnx"))


@pytest.mark.parametrize("transposed", [False, True])
def test_external_stays_external(external, tmp_path, transposed):
    model = load(external)
    if transposed:
        model.replace("W", np.asfortranarray(W * 2))
    out = tmp_path / "out.onnx"
    save(model, out)
    stored = onnx.load(out, load_external_data=False).graph.initializer
    assert [t.data_location for t in stored] == [TensorProto.EXTERNAL, TensorProto.DEFAULT]
    assert {e.key: e.value for e in stored[0].external_data} == {
        "location": "out.onnx.data",
        "offset": "0",
        "length": "48",
    }
    onnx.checker.check_model(str(out), full_check=True)
    np.testing.assert_array_equal(load(out).weights["W"], W * (2 if transposed else 1))
    x = np.ones((2, 3), np.float32)
    result = ort.InferenceSession(out, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(result, x @ (W * (2 if transposed else 1)).T + B)


def test_packed_external_data_stays_external(tmp_path):
    proto = gemm_model()
    proto.graph.initializer.append(external_tensor("q", [6], "q.bin", TensorProto.INT4, length=3))
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "q.bin").write_bytes(b"\x21\x43\x05")
    model = load(tmp_path / "in.onnx")
    assert "q" not in model.weights
    save(model, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").read_bytes() == b"\x21\x43\x05"


def test_models_over_the_limit_become_external(tmp_path, monkeypatch):
    large = np.arange(600, dtype=np.float32)
    tensors = [numpy_helper.from_array(a, n) for n, a in (("W", W), ("B", B), ("L1", large), ("L2", large + 1))]
    model = load(gemm_model(tensors))
    save(model, tmp_path / "inline.onnx")
    assert list(files(tmp_path)) == ["inline.onnx"]
    monkeypatch.setattr(writing, "INLINE_LIMIT", 3000)
    save(model, tmp_path / "out.onnx")
    stored = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    offsets = {t.name: {e.key: e.value for e in t.external_data}.get("offset") for t in stored}
    assert offsets == {"W": None, "B": None, "L1": "0", "L2": "2432"}  # 2400 bytes and the next multiple of 64
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    loaded = onnx.load(tmp_path / "out.onnx").graph.initializer
    for tensor, expected in zip(loaded, (W, B, large, large + 1), strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected)


def test_targets_that_cannot_be_written(tmp_path):
    model = load(gemm_model())
    taken = tmp_path / "taken.onnx"
    taken.write_bytes(b"precious")
    for target, reason in (
        (tmp_path / "no" / "out.onnx", "does not exist"),
        (tmp_path, "is a folder"),
        (taken, "exists already; choose another name or overwrite it"),
        (taken / "out.onnx", "does not exist"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        with pytest.raises(UsageError, match=reason) as caught:
            save(model, target)
        assert str(caught.value).startswith(f"{target}: ")
    assert files(tmp_path) == {"taken.onnx": b"precious"}
    save(model, taken, force=True)
    assert taken.read_bytes() == gemm_model().SerializeToString()


def test_a_folder_that_is_not_there_for_a_model_with_external_data(external, tmp_path):
    with pytest.raises(UsageError, match=r"the folder .*/no does not exist"):
        save(load(external), tmp_path / "no" / "out.onnx")


def test_folder_that_is_not_writable(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):  # the superuser may write everywhere but there
        folder = Path("/proc")
    with pytest.raises(UsageError, match="cannot be written"):
        save(load(gemm_model()), folder / "out.onnx")


def test_the_data_file_of_the_target_is_protected_too(external, tmp_path):
    model = load(external)
    data = tmp_path / "out.onnx.data"
    data.mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        save(model, tmp_path / "out.onnx", force=True)
    data.rmdir()
    data.write_bytes(b"precious")
    with pytest.raises(UsageError, match=r"out.onnx.data: exists already"):
        save(model, tmp_path / "out.onnx")
    assert data.read_bytes() == b"precious" and not (tmp_path / "out.onnx").exists()


def test_the_input_is_overwritten_only_with_force(tmp_path):
    path = tmp_path / "in.onnx"
    (tmp_path / "in.onnx.data").write_bytes(W.tobytes())
    write_external(tmp_path, "in.onnx.data")
    before = files(tmp_path)
    model = load(path)
    with pytest.raises(UsageError, match=r"is the input model; .*--force"):
        save(model, path)
    assert files(tmp_path) == before
    model.replace("B", B + 1)
    save(model, path, force=True)
    assert set(files(tmp_path)) == set(before)
    again = load(path)
    np.testing.assert_array_equal(again.weights["W"], W)
    np.testing.assert_array_equal(again.weights["B"], B + 1)
    np.testing.assert_array_equal(model.weights["W"], W)


def test_the_weights_of_the_input_are_never_overwritten_by_another_model(tmp_path):
    path = write_external(tmp_path, "out.onnx.data")
    (tmp_path / "out.onnx.data").write_bytes(W.tobytes())
    before = files(tmp_path)
    for name in ("out.onnx", "out.onnx.data"):
        with pytest.raises(UsageError, match="holds the weights of the input model"):
            save(load(path), tmp_path / name, force=True)
    assert files(tmp_path) == before


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("step", ["data", "model", "interrupt"])
def test_failure_leaves_everything_as_it_was(external, tmp_path, monkeypatch, existing, step):
    out = tmp_path / "out.onnx"
    model = load(external)
    if existing:
        save(model, out)
    before = files(tmp_path)
    rename, failing = os.replace, ".onnx.data" if step == "data" else ".onnx"

    def fails(source, target):
        if str(target) == f"{tmp_path}/out{failing}" and not str(source).endswith(".previous"):
            raise KeyboardInterrupt if step == "interrupt" else OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", fails)
    model.replace("W", W + 1)
    with pytest.raises(KeyboardInterrupt if step == "interrupt" else UsageError):
        save(model, out, force=True)
    assert files(tmp_path) == before
    assert not list(tmp_path.glob(".lbyl*"))


def test_an_invalid_result_is_not_published(tmp_path):
    model = load(gemm_model())
    model.proto.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="nowhere"):
        save(model, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_written_files_are_readable_for_others(tmp_path):
    save(load(gemm_model()), tmp_path / "out.onnx")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "out.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


# ---- symbolic links


def test_a_link_stays_one_and_the_file_behind_it_is_written(tmp_path):
    behind, link = tmp_path / "store" / "real.onnx", tmp_path / "link.onnx"
    behind.parent.mkdir()
    behind.write_bytes(b"old")
    link.symlink_to(behind)
    with pytest.raises(UsageError, match="exists already"):
        save(load(gemm_model()), link)
    save(load(gemm_model()), link, force=True)
    assert link.is_symlink() and link.resolve() == behind.resolve()
    assert behind.read_bytes() == gemm_model().SerializeToString()
    assert set(files(tmp_path)) == {"store/real.onnx", "link.onnx"}


def test_a_link_to_nothing_makes_the_file_that_it_names(tmp_path):
    (tmp_path / "link.onnx").symlink_to("new.onnx")
    save(load(gemm_model()), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink() and not (tmp_path / "new.onnx").is_symlink()
    (tmp_path / "astray.onnx").symlink_to(tmp_path / "no" / "out.onnx")
    with pytest.raises(UsageError, match="does not exist"):
        save(load(gemm_model()), tmp_path / "astray.onnx")


def test_the_weights_lie_beside_the_file_behind_a_link(external, tmp_path):
    link = tmp_path / "link.onnx"
    link.symlink_to("real.onnx")
    save(load(external), link)
    assert link.is_symlink() and (tmp_path / "real.onnx.data").is_file()
    for path in (link, tmp_path / "real.onnx"):
        np.testing.assert_array_equal(load(path).weights["W"], W)


def test_a_link_into_another_folder_takes_no_data_file(external, tmp_path):
    """Readers look for the data beside the link, where it would not be."""
    link, behind = tmp_path / "link.onnx", tmp_path / "store" / "real.onnx"
    behind.parent.mkdir()
    behind.write_bytes(b"precious")
    link.symlink_to(behind)
    before = files(tmp_path)
    with pytest.raises(UsageError, match=r"link.onnx: points to .*real.onnx, in another folder.*; give that path"):
        save(load(external), link, force=True)
    assert files(tmp_path) == before


def test_links_in_a_circle(tmp_path):
    (tmp_path / "one.onnx").symlink_to("other.onnx")
    (tmp_path / "other.onnx").symlink_to("one.onnx")
    save(load(gemm_model()), tmp_path / "one.onnx", force=True)
    assert load(tmp_path / "one.onnx").weights.keys() == {"W", "B"}


# ---- places in the data file


def test_small_tensors_are_packed_and_large_ones_start_at_a_page(tmp_path):
    """Offsets: multiples of 64 bytes below 64 KiB, of 4 KiB from there on."""
    sizes = {"tiny": 10, "small": 300, "large": 2**14, "last": 100, "below": 2**14 - 1}
    tensors, data = [], b""
    for name, count in sizes.items():
        array = np.arange(count, dtype=np.float32)
        tensors.append(external_tensor(name, [count], "w.bin", offset=len(data), length=array.nbytes))
        data += array.tobytes()
    tensors += [numpy_helper.from_array(W, "W"), numpy_helper.from_array(B, "B")]
    (tmp_path / "in.onnx").write_bytes(gemm_model(tensors).SerializeToString())
    (tmp_path / "w.bin").write_bytes(data)
    out = tmp_path / "out.onnx"
    save(load(tmp_path / "in.onnx"), out)
    stored = onnx.load(out, load_external_data=False).graph.initializer
    offsets = {t.name: int({e.key: e.value for e in t.external_data}.get("offset", -1)) for t in stored}
    large = 4096
    last = large + 4 * 2**14
    assert offsets == {"tiny": 0, "small": 64, "large": large, "last": last, "below": last + 448, "W": -1, "B": -1}
    assert (tmp_path / "out.onnx.data").stat().st_size == last + 448 + 4 * (2**14 - 1)
    for name, count in sizes.items():
        np.testing.assert_array_equal(load(out).weights[name], np.arange(count))


def test_many_small_tensors_take_little_more_than_their_bytes(tmp_path):
    count = 200
    tensors = [external_tensor(f"t{number}", [16], "w.bin", offset=64 * number, length=64) for number in range(count)]
    tensors += [numpy_helper.from_array(W, "W"), numpy_helper.from_array(B, "B")]
    (tmp_path / "in.onnx").write_bytes(gemm_model(tensors).SerializeToString())
    (tmp_path / "w.bin").write_bytes(bytes(64 * count))
    save(load(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").stat().st_size == 64 * count


# ---- what can be saved


def test_a_model_a_proto_and_whatever_holds_a_model_are_saved_alike(tmp_path):
    proto = gemm_model()
    given = {"model": load(proto), "proto": proto, "holder": SimpleNamespace(compressed=load(proto))}
    for name, value in given.items():
        save(value, tmp_path / name)
        assert (tmp_path / name).read_bytes() == proto.SerializeToString()


def test_what_compress_returns_is_saved(tmp_path):
    graph = Builder()
    hidden = graph.node("Relu", graph.conv(graph.input(), 3, 8, name="producer"))
    proto = graph.model(graph.conv(hidden, 8, 4, name="consumer"))
    result = compress(proto, 0.5, criterion="random", restore="none", validation=False)
    save(result, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == result.model.SerializeToString()
    assert load(tmp_path / "out.onnx").weights["constant_0"].shape == (4, 3, 3, 3)


def test_a_proto_that_is_no_valid_model_is_not_saved(tmp_path):
    proto = gemm_model()
    proto.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="nowhere"):
        save(proto, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())
