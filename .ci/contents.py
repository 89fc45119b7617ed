"""Compare what a wheel and a source distribution hold with what they should: python .ci/contents.py dist"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNSHIPPED = {".gitignore"}


def tracked() -> set[str]:
    """The files of the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


def differences(dist: Path) -> list[str]:
    """What is missing, and what nobody asked for."""
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    files = tracked()
    package = {name for name in files if name.startswith("lbyl_onnx/")}
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    with tarfile.open(source) as archive:
        packed = {member.name.partition("/")[2] for member in archive if member.isfile()}
    metadata = {name for name in held if ".dist-info/" in name}
    made = {name for name in packed if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    told = [f"wheel lacks {name}" for name in sorted(package - held)]
    told += [f"wheel has {name}" for name in sorted(held - package - metadata)]
    told += [f"wheel lacks its {name}" for name in ("LICENSE",) if not any(n.endswith(f"/{name}") for n in metadata)]
    told += [f"source lacks {name}" for name in sorted(files - UNSHIPPED - packed)]
    told += [f"source has {name}" for name in sorted(packed - files - made)]
    assert {"lbyl_onnx/py.typed", "lbyl_onnx/__init__.pyi"} <= package
    print(f"{wheel.name}: {len(held)} files, {source.name}: {len(packed)} files")
    return told


if __name__ == "__main__":
    try:
        sys.exit("\n".join(differences(Path(sys.argv[1]))) or 0)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"skipped: what git tracks cannot be listed here, so the contents were not compared ({error})")
