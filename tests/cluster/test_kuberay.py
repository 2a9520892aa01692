"""The manifests for Kubernetes, against a schema made of the published fields."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import validate_config

from hbt_ray.train.config import TrainConfig
from tests.cluster.files import CLUSTER, PINS, image

VALIDATOR = jsonschema.Draft202012Validator(json.loads(Path(__file__).with_name("kuberay_schema.json").read_text()))
CLAIM, CLUSTER_OBJECT = yaml.safe_load_all((CLUSTER / "kuberay" / "raycluster.yaml").read_text())
JOB = yaml.safe_load((CLUSTER / "kuberay" / "rayjob.yaml").read_text())
SPECS = {"raycluster": CLUSTER_OBJECT["spec"], "rayjob": JOB["spec"]["rayClusterSpec"]}


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SPECS[request.param]


def groups(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in spec["workerGroupSpecs"]}


def pods(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Group, pod, its one container."""
    for name, group in {"head": spec["headGroupSpec"], **groups(spec)}.items():
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        yield name, pod, container


@pytest.mark.parametrize("thing", [CLAIM, CLUSTER_OBJECT, JOB], ids=lambda thing: thing["kind"])
def test_its_fields_are_those_of_the_api(thing: dict[str, Any]) -> None:
    VALIDATOR.validate(thing)


def pod_of(job: dict[str, Any]) -> Any:
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unknown field": lambda job: job["spec"].update(shutdownAfterJobFinish=True),
    "unknown in a group": lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].update(minReplica=0),
    "unknown in a container": lambda job: pod_of(job)["containers"][0].update(img="x"),
    "number for a text": lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update(
        {"num-cpus": 0}
    ),
    "text for a number": lambda job: job["spec"].update(ttlSecondsAfterFinished="600"),
    "no quantity": lambda job: pod_of(job)["containers"][0]["resources"]["limits"].update(memory="16 GB"),
    "no template": lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"].pop("template"),
    "no group name": lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("groupName"),
    "no such autoscaler": lambda job: job["spec"]["rayClusterSpec"]["autoscalerOptions"].update(version="v3"),
    "rules and a shutdown": lambda job: job["spec"].update(
        deletionStrategy={"deletionRules": [{"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED"}}]}
    ),
    "a time without a shutdown": lambda job: job["spec"].pop("shutdownAfterJobFinishes"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_one_is_refused(how: str) -> None:
    job = copy.deepcopy(JOB)
    BROKEN[how](job)
    assert not VALIDATOR.is_valid(job)


def test_rules_may_stand_in_place_of_the_shutdown() -> None:
    job = copy.deepcopy(JOB)
    del job["spec"]["shutdownAfterJobFinishes"], job["spec"]["ttlSecondsAfterFinished"]
    condition = {"jobStatus": "FAILED", "ttlSeconds": 3600}
    job["spec"]["deletionStrategy"] = {"deletionRules": [{"policy": "DeleteCluster", "condition": condition}]}
    VALIDATOR.validate(job)


def test_rays_autoscaler_reads_the_groups_as_they_are_meant(spec: dict[str, Any]) -> None:
    """What the autoscaler's container makes of the object: its groups, their resources and their order."""
    made = {**CLUSTER_OBJECT, "metadata": {"name": "x", "namespace": "default"}, "spec": spec}
    config = _derive_autoscaling_config_from_ray_cr(made)
    validate_config(config)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    resources = {
        name: (types[name]["resources"]["CPU"], types[name]["resources"].get("GPU", 0)) for name in groups(spec)
    }
    assert resources == {"data": (15, 0), "gpu-spot": (7, 1), "gpu-on-demand": (7, 1)}
    assert types["gpu-spot"]["priority"] > types["gpu-on-demand"]["priority"]
    assert config["idle_timeout_minutes"] == 5


def test_it_scales_with_the_second_autoscaler_from_nothing(spec: dict[str, Any]) -> None:
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert {name: group["minReplicas"] for name, group in groups(spec).items()} == dict.fromkeys(groups(spec), 0)
    assert all(group["maxReplicas"] > 0 for group in groups(spec).values())
    assert groups(spec)["gpu-spot"]["priority"] > groups(spec)["gpu-on-demand"]["priority"]
    assert spec["authOptions"] == {"mode": "token"}


def test_no_pod_is_root_and_all_see_the_storage(spec: dict[str, Any]) -> None:
    for name, pod, container in pods(spec):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1000, name
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert {"name": "MALLOC_ARENA_MAX", "value": "1"} in container["env"], name
        claims = [volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]]
        assert CLAIM["metadata"]["name"] in claims, name
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]


def test_pods_get_what_they_ask_for(spec: dict[str, Any]) -> None:
    for name, _, container in pods(spec):
        assert container["resources"]["requests"] == container["resources"]["limits"], name
        wanted = "1" if name.startswith("gpu") else None
        assert container["resources"]["limits"].get("nvidia.com/gpu") == wanted, name
        assert container["image"] == image("gpu" if wanted else "cpu"), name


def test_versions_are_the_pins(spec: dict[str, Any]) -> None:
    assert spec["rayVersion"] == PINS["ray"]


def test_the_job_has_the_cluster_of_the_other_file() -> None:
    assert SPECS["rayjob"] == SPECS["raycluster"]


def test_the_job_ends_and_its_command_is_one() -> None:
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True
    assert JOB["spec"]["ttlSecondsAfterFinished"] > 0
    words = shlex.split(JOB["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "hbt_ray", "train"]
    config = TrainConfig.make({"name": "x", "store": "y"}, "rayjob.yaml", words[5:])
    assert str(config.storage_path).startswith("/mnt/hbt/")
    assert config.workers.start_seconds >= 600
