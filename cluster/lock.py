"""Write `requirements-TARGET.lock`: everything of an image with versions and hashes, for pip's --require-hashes.

    python cluster/lock.py cpu
    python cluster/lock.py gpu

pip resolves for Linux on x86_64 and the image's Python, whatever machine this runs on, within `constraints.txt`, and
installs nothing: it reads metadata, and takes the hashes from the index. Only names, versions and hashes are written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PYTHON = "3.11"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
EXTRAS = {target: (target, "cluster", "bm25", "hub", "lora") for target in ("cpu", "gpu")}


def resolve(target: str, folder: Path) -> dict[str, Any]:
    """pip's installation report. Configuration and environment of this machine are left out of it."""
    report = folder / "report.json"
    command = [
        *(sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--dry-run", "--ignore-installed"),
        *("--report", str(report), "--target", str(folder / "nothing"), "--python-version", PYTHON),
        *(word for platform in PLATFORMS for word in ("--platform", platform)),
        *("--only-binary", ":all:", "--constraint", str(ROOT / "constraints.txt")),
        f"{ROOT}[{','.join(EXTRAS[target])}]",
    ]
    if subprocess.run(command).returncode:
        raise SystemExit(f"pip found no set of versions for the {target} image; nothing was written")
    return dict(json.loads(report.read_text()))


def lines(installs: Iterable[dict[str, Any]]) -> list[str]:
    """`name==version --hash=sha256:…` of each package, sorted; our own is installed from the sources instead."""
    found = {}
    for install in installs:
        name, version = install["metadata"]["name"].lower().replace("_", "-"), install["metadata"]["version"]
        if name == "hbt-ray":
            continue
        digest = install["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if not digest or not install["download_info"]["url"].startswith("https://"):
            raise SystemExit(f"{name}=={version}: the index gave no sha256 for it; lock against one that does")
        found[name] = f"{name}=={version} --hash=sha256:{digest}"
    if {"faiss-cpu", "faiss-gpu"} <= found.keys():
        raise SystemExit("faiss-cpu and faiss-gpu provide the same module; an image holds one of them")
    return [found[name] for name in sorted(found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(EXTRAS))
    parser.add_argument("--out", type=Path, help="default: cluster/requirements-TARGET.lock")
    arguments = parser.parse_args()
    out = arguments.out or HERE / f"requirements-{arguments.target}.lock"
    with tempfile.TemporaryDirectory() as folder:
        locked = lines(resolve(arguments.target, Path(folder))["install"])
    out.write_text("\n".join([f"# By cluster/lock.py {arguments.target}, from constraints.txt.", *locked, ""]))
    print(f"{out}: {len(locked)} packages")


if __name__ == "__main__":
    main()
