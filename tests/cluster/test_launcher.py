"""The configurations of Ray's cluster launcher, checked by what `ray up` checks before it calls a cloud."""

from __future__ import annotations

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
from click.testing import CliRunner
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from tests.cluster.files import image, read

CLOUDS = ["aws", "gcp", "azure"]
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


@pytest.fixture(params=CLOUDS)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(read(f"{request.param}.yaml"))


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    jsonschema.validate(config, SCHEMA)
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    # Nothing comes from Ray's example, whose commands install a nightly build.
    assert "wheels" not in json.dumps(prepared)
    assert prepared["available_node_types"].keys() == config["available_node_types"].keys()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("idle_timeout_minute",), 5),
        (("max_workers",), "12"),
        (("docker", "imge"), "x"),
        (("available_node_types", "data", "min_wokers"), 0),
        (("available_node_types", "data", "resources", "CPU"), 0.5),
        (("available_node_types", "data", "min_workers"), 13),
        (("head_node_type",), "heda"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_ray_refuses_a_broken_one(config: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    place = config
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config(config))


def test_only_a_provider_that_ray_has(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.providers import _NODE_PROVIDERS

    assert config["provider"]["type"] in _NODE_PROVIDERS


def test_the_head_takes_no_work_and_workers_come_on_demand(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    assert config["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in config["head_start_ray_commands"][1]
    assert all(types[name]["min_workers"] == 0 for name in types if name != "head")
    assert sum(types[name]["max_workers"] for name in ("data", "gpu_spot")) <= config["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 10


def is_spot(node: dict[str, Any]) -> bool:
    """In the words of whichever cloud."""
    parameters = node["node_config"]
    return (
        parameters.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        or any(one.get("provisioningModel") == "SPOT" for one in parameters.get("scheduling", []))
        or parameters.get("azure_arm_parameters", {}).get("priority") == "Spot"
    )


def machine(node: dict[str, Any]) -> Any:
    parameters = {**node["node_config"], **node["node_config"].get("azure_arm_parameters", {})}
    return next(parameters[key] for key in ("InstanceType", "machineType", "vmSize") if key in parameters)


def test_gpus_are_spot_first_and_on_demand_where_there_are_none(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    spot, sure = types["gpu_spot"], types["gpu_on_demand"]
    assert is_spot(spot)
    assert not is_spot(sure)
    assert not is_spot(types["head"])
    assert spot["priority"] > sure["priority"]
    assert machine(spot) == machine(sure)
    assert spot["resources"] == sure["resources"] == {"CPU": 8, "GPU": 1}


def test_images_are_those_of_the_dockerfile(config: dict[str, Any]) -> None:
    assert config["docker"]["image"] == image("cpu")
    for name, node in config["available_node_types"].items():
        wanted = image("gpu" if "GPU" in node["resources"] else "cpu")
        assert node.get("docker", {}).get("worker_image", config["docker"]["image"]) == wanted, name


def test_every_container_has_storage_a_token_and_one_arena(config: dict[str, Any]) -> None:
    options = dict(option.split(maxsplit=1)[::-1] for option in config["docker"]["run_options"])
    assert {"/mnt/hbt:/mnt/hbt", "MALLOC_ARENA_MAX=1", "RAY_AUTH_MODE=token"} <= options.keys()
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    mount = next(command for command in config["initialization_commands"] if "mount -t nfs" in command)
    assert mount.startswith("mountpoint -q /mnt/hbt ||"), "the commands are run again on nodes that are updated"
    for command in config["initialization_commands"]:
        shlex.split(command)


def test_ray_start_knows_its_options(config: dict[str, Any]) -> None:
    known = {name for option in start.params for name in option.opts}
    for command in [config["head_start_ray_commands"][1], config["worker_start_ray_commands"][1]]:
        words = shlex.split(command)
        assert words[:2] == ["ray", "start"]
        assert {word.split("=")[0] for word in words[2:]} <= known
    refused = CliRunner().invoke(start, ["--head", "--nmu-cpus=0"])
    assert "No such option" in refused.output
