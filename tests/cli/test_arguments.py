import re

import command_line
import pytest
from command_line import CNN, DIGITS, assert_refused, files, said
from uniform import UNIFORM

from lbyl_onnx.calibration import samples, user_samples

lbyl = command_line.lbyl


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [
        ("--ratio", "1.5", "--ratio is 1.5"),
        ("--ratio", "1", "[0, 1)"),
        ("--ratio", "-0.1", "--ratio"),
        ("--ratio", "nan", "--ratio"),
        ("--ratio", "much", "--ratio"),
        ("--restore", "magic", "lbyl"),
        ("--criterion", "magic", "bn-scale"),
        ("--scope", "magic", "chains, all"),
        ("--round-to", "0", "--round-to"),
        ("--round-to", "2.5", "--round-to"),
        ("--round-to", "kernels", "--round-to 'kernels': expected auto or a whole number of at least 1"),
        ("--target", "macs", "--target 'macs' is not of the form NAME=VALUE"),
        ("--target", "speed=2", "macs, params, bytes, latency, drop"),
        ("--target", "macs=5ms", "--target macs=5ms is no budget; expected a share of the original's such as 0.8"),
        ("--target", "macs=0", "--target macs=0 is no budget"),
        ("--target", "bytes=40", "--target bytes=40 has no unit"),
        ("--allocation", "greedy", "auto, sensitivity, uniform"),
        ("--threads", "0", "--threads is 0"),
        ("--samples", "0", "--samples is 0"),
        ("--seed", "-1", "--seed is -1"),
        ("--lambda1", "-1", "--lambda1"),
        ("--lambda2", "inf", "--lambda2"),
        ("--include", "conv(", "--include"),
        ("--exclude", "*", "--exclude"),
        ("--provider", "tpu", "tpu"),
        ("--custom-ops-library", "nowhere.so", "--custom-ops-library 'nowhere.so' is no file"),
        ("--colour", "red", "--colour"),
    ],
)
def test_bad_options(lbyl, tmp_path, option, value, part):
    assert_refused(lbyl("compress", CNN, tmp_path / "out.onnx", option, value), 2, part)
    assert files(tmp_path) == []


def test_a_target_given_twice(lbyl, tmp_path):
    twice = "--target", "macs=0.8", "--target", "macs=0.7"
    assert_refused(lbyl("compress", CNN, tmp_path / "out.onnx", *twice), 2, "--target 'macs=0.7' is given twice")


def test_other_criteria_than_obs_know_no_sensitivity(lbyl, tmp_path):
    options = "--allocation", "sensitivity", "--criterion", "l1"
    assert_refused(lbyl("compress", CNN, tmp_path / "out.onnx", *options), 2, "--allocation", "obs", "l1")


def test_wrong_commands(lbyl):
    assert_refused(lbyl(), 2, "lbyl-onnx --help")
    assert_refused(lbyl("shrink"), 2, "shrink")
    assert_refused(lbyl("compress", CNN), 2, "OUT", "lbyl-onnx compress --help")
    assert_refused(lbyl("validate", CNN, CNN, "--samples", "0"), 2, "samples")
    assert_refused(lbyl("validate", CNN, CNN, "--data", "nowhere.npz"), 2, "nowhere.npz")


@pytest.mark.parametrize(
    ("command", "option"), [("compress", "--ratio"), ("inspect", "--shape"), ("validate", "--data")]
)
def test_a_missing_value_points_to_its_own_command(lbyl, command, option):
    assert_refused(lbyl(command, CNN, option), 2, option, f"see lbyl-onnx {command} --help")


# ---- options that do nothing


def told(result):
    """The warnings of a command that works."""
    code, _, err = result
    err = said(err)
    assert code == 0 and all(line.startswith("warning: ") for line in err.splitlines())
    return err


def test_options_without_effect_are_said(lbyl, tmp_path):
    def compress(*options):
        number = len(files(tmp_path))
        return told(lbyl("compress", CNN, tmp_path / f"{number}.onnx", *UNIFORM, "--no-validate", *options))

    assert compress() == ""
    scale = "--mean", "0.5", "--std", "0.5"
    assert "--mean, --std or --input-range have no effect" in compress("--calibration", DIGITS, *scale)
    assert compress(*scale) == ""
    for name in ("lambda1", "lambda2"):
        assert f"--{name} has no effect: --restore moments" in compress(f"--{name}", "3")
        assert compress("--restore", "lbyl", f"--{name}", "3") == ""
    weights = "--restore", "lbyl", "--criterion", "l2"
    assert "calibration samples are not used" in compress("--calibration", DIGITS, *weights)
    assert "--samples has no effect" in compress("--samples", "9", *weights)
    assert compress("--samples", "9", *weights, "--report", tmp_path / "r.json") == ""


def test_the_comparison_uses_the_scale_of_images(lbyl, tmp_path):
    arguments = "--calibration", DIGITS, "--mean", "0.5", "--std", "0.5"
    err = lbyl("compress", CNN, tmp_path / "out.onnx", *UNIFORM, *arguments)[2]
    assert "apply to the comparison only" in err


def test_options_of_a_comparison_without_effect_are_said(lbyl, tmp_path):
    def validate(*options):
        return told(lbyl("validate", CNN, CNN, *options))

    given = "--data", DIGITS
    assert validate(*given) == validate("--seed", "3", "--shape", "image:1x1x8x8", "--input-range", "0,1") == ""
    assert "--mean, --std or --input-range have no effect" in validate(*given, "--input-range", "0,1")
    assert "--shape has no effect" in validate(*given, "--shape", "image:1x1x8x8")
    assert "--seed has no effect" in validate(*given, "--seed", "3")
    assert validate(*given, "--samples", "8") == ""


# ---- help


def help_of(lbyl, command):
    code, out, err = lbyl(command, "--help")
    assert (code, err) == (0, "")
    return " ".join(out.split())


def test_help_lists_options_and_defaults(lbyl):
    text = help_of(lbyl, "compress")
    for part in (
        *("--no-validate", "lbyl|neuron-merging|none", "--threads N", "--target NAME=VALUE", "--round-to auto|N"),
        *("--allocation auto|sensitivity|uniform", "Default without --ratio: drop=1%", "[default: moments]"),
    ):
        assert part in text
    (ratio,) = re.findall(r"--ratio (.*?) --target", text)
    assert "default" not in ratio


def test_usage_lines_name_the_arguments(lbyl):
    arguments = {"compress": "IN OUT", "inspect": "MODEL", "validate": "A B"}
    for command, names in arguments.items():
        text = help_of(lbyl, command)
        assert text.startswith(f"Usage: lbyl-onnx {command} [OPTIONS] {names} ")
    assert "Compress the model IN" in help_of(lbyl, "compress")


@pytest.mark.parametrize(
    ("command", "codes"),
    [("compress", (0, 1, 2, 3, 4, 5, 130)), ("inspect", (0, 1, 2, 3, 130)), ("validate", (0, 1, 2, 3, 5, 130))],
)
def test_help_lists_every_exit_code(lbyl, command, codes):
    listed = re.search(r"Exit codes: ([^.]*)\.", help_of(lbyl, command))[1]
    assert tuple(int(part.split()[0]) for part in re.split(r", (?=\d)", listed)) == codes


def test_help_says_how_many_samples_there_are(lbyl):
    def of_samples(command):
        return re.search(r"--samples N (.*?) --", help_of(lbyl, command))[1]

    text = of_samples("compress")
    for number in (samples.MIN_SAMPLES, samples.MAX_SAMPLES, samples.MAX_VECTORS, user_samples.MAX_IMAGES):
        assert str(number) in text
    assert "all of an .npz" in text
    text = of_samples("validate")
    for number in (samples.MIN_SAMPLES // samples.JUDGED_SHARE, samples.MAX_BATCH, user_samples.MAX_IMAGES):
        assert str(number) in text
    assert "all of an .npz" in text
