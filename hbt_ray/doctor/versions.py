"""The same software everywhere: a cluster of several versions fails late and in strange ways."""

from __future__ import annotations

from collections.abc import Sequence

from hbt_ray.doctor.finding import Finding, Level, by_value, names, number_of, or_well
from hbt_ray.doctor.machine import Machine

SAME_IMAGE = "start all nodes from one image (cluster/Dockerfile)"
SAME_CODE = (
    "submit with one working directory (--working-dir, --runtime-env cluster/runtime_env.yaml), or " + SAME_IMAGE
)


def check_versions(machines: Sequence[Machine], driver: Machine) -> list[Finding]:
    """Those of every node equal those of the driver; hbt_ray down to its modules."""
    problems = []
    for package in driver.versions:
        wanted, others = _public(driver, package), {each.name: _public(each, package) for each in machines}
        if different := {name: version for name, version in others.items() if version != wanted}:
            told = f"{package} is {wanted} at the driver, but {by_value(different)}"
            remedy = SAME_CODE if package == "hbt_ray" else SAME_IMAGE
            problems.append(Finding("versions", Level.FAILURE, told, remedy))
    same = [each for each in machines if each.versions.get("hbt_ray") == driver.versions.get("hbt_ray")]
    if changed := {each.name: each.code for each in same if each.code != driver.code}:
        told = f"the code of hbt_ray is {driver.code} at the driver, but {by_value(changed)}, under the same version"
        problems.append(Finding("versions", Level.FAILURE, told, SAME_CODE))
    shown = ", ".join(f"{package} {version}" for package, version in driver.versions.items() if version)
    return or_well(problems, "versions", f"{shown}; the same on {number_of(machines)}")


def _public(machine: Machine, package: str) -> str:
    """Without what follows a +, the kind of a build: CPU and GPU nodes may have different ones."""
    return (machine.versions.get(package) or "none").partition("+")[0]


def check_torch(machines: Sequence[Machine]) -> list[Finding]:
    """torch can be imported; whether it sees GPUs is another check."""
    broken = {each.name: each.torch_error for each in machines if each.torch_error}
    told = f"torch cannot be imported: {by_value(broken)}"
    return [Finding("torch", Level.FAILURE, told, SAME_IMAGE)] if broken else []


def check_faiss(machines: Sequence[Machine]) -> list[Finding]:
    """Exactly one distribution brings the module `faiss`, and it suits the node."""
    problems = []
    if missing := [each.name for each in machines if not each.faiss]:
        remedy = "install hbt-ray[cpu], or hbt-ray[gpu] on nodes with GPUs"
        problems.append(Finding("faiss", Level.FAILURE, f"no FAISS on {names(missing)}", remedy))
    if several := {each.name: " and ".join(each.faiss) for each in machines if len(each.faiss) > 1}:
        told = f"they overwrite each other's files: {by_value(several)}"
        remedy = "pip uninstall both, then install one of hbt-ray[cpu] and hbt-ray[gpu]"
        problems.append(Finding("faiss", Level.FAILURE, told, remedy))
    if slow := [each.name for each in machines if each.faiss == ("faiss-cpu",) and each.ray_gpus]:
        told = f"faiss-cpu on {names(slow)}, which {'has' if len(slow) == 1 else 'have'} GPUs"
        remedy = "the image's target gpu has faiss-gpu (pip uninstall faiss-cpu first)"
        problems.append(Finding("faiss", Level.ADVICE, told, remedy))
    return or_well(problems, "faiss", by_value({each.name: each.faiss[0] for each in machines if each.faiss}))
