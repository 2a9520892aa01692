"""GPUs: those that Ray counts must be those that torch can use."""

from __future__ import annotations

from collections.abc import Sequence

from hbt_ray.doctor.finding import Finding, Level, by_value, number_of, or_well
from hbt_ray.doctor.machine import Machine


def check_gpus(machines: Sequence[Machine]) -> list[Finding]:
    """On every node; reasons are told together where nodes share them."""
    problems: list[Finding] = []
    unseen = {each.name: _unseen(each) for each in machines if each.ray_gpus > each.torch_gpus and not each.torch_error}
    for reason in dict.fromkeys(unseen.values()):
        counts = {each.name: f"{each.torch_gpus} of {each.ray_gpus:g}" for each in machines
                  if unseen.get(each.name) == reason}  # fmt: skip
        told = f"torch sees fewer GPUs than Ray counts: {by_value(counts)}; {reason[0]}"
        problems.append(Finding("GPUs", Level.FAILURE, told, reason[1]))
    if idle := {each.name: f"{each.ray_gpus:g} of {each.torch_gpus}" for each in machines
                if each.ray_gpus < each.torch_gpus}:  # fmt: skip
        told = f"Ray counts fewer GPUs than torch sees: {by_value(idle)}; the others stay unused"
        problems.append(Finding("GPUs", Level.WARNING, told, "start the node with `ray start --num-gpus`"))
    counts = {each.name: f"{each.torch_gpus}, CUDA {each.cuda_build}" for each in machines if each.torch_gpus}
    return or_well(problems, "GPUs", by_value(counts) if counts else f"none on {number_of(machines)}")


def _unseen(machine: Machine) -> tuple[str, str]:
    """Why, and what to do."""
    build, driver = machine.cuda_build, machine.cuda_driver
    if not build:
        return "torch is a build for CPUs", "use the image's target gpu, or install torch with CUDA"
    if not driver:
        return "there is no NVIDIA driver (libcuda.so.1)", (
            "install the driver; give a container its GPUs (`docker run --gpus all`, `nvidia.com/gpu` on Kubernetes)"
        )
    # Within a major version any driver serves any build.
    if int(build.split(".")[0]) > int(driver.split(".")[0]):
        return f"torch is built for CUDA {build}, the driver serves up to {driver}", (
            f"update the NVIDIA driver, or install a torch that is built for CUDA {driver.split('.')[0]}"
        )
    return f"CUDA {build}, driver for {driver}", (
        "look at `nvidia-smi` there: a GPU may be lost, in MIG mode, or hidden by CUDA_VISIBLE_DEVICES"
    )
