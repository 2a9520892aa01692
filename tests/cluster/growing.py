"""A cluster on this machine that grows and shrinks: Ray's autoscaler with raylets for nodes.

Ray's own `AutoscalingCluster` needs a file that its wheel lacks, and ends by stopping every Ray process of the user;
this one writes its own configuration, and ends what it started.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

PORT = 6399
_LISTS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
          "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude",
          "rsync_filter")  # fmt: skip


@contextmanager
def growing_cluster(node: Mapping[str, float], most: int, idle_seconds: float = 10) -> Iterator[str]:
    """The address of a head without CPUs, whose autoscaler adds up to `most` nodes with these resources."""
    import ray

    address = f"{ray.util.get_node_ip_address()}:{PORT}"
    with tempfile.TemporaryDirectory(prefix="hbt", dir="/tmp", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "autoscaling.json"
        config.write_text(json.dumps(_config(address, node, most, idle_seconds)))
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--autoscaling-config={config}",
                   f"--port={PORT}", f"--temp-dir={folder}", "--include-dashboard=false", "--disable-usage-stats",
                   "--num-cpus=0", "--object-store-memory=200000000"]  # fmt: skip
        environment = {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }
        try:
            subprocess.run(command, env=os.environ | environment, check=True, capture_output=True)
            yield address
        finally:
            ray.shutdown()
            _end(folder)


def _config(address: str, node: Mapping[str, float], most: int, idle_seconds: float) -> dict[str, Any]:
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"object_store_memory": 200_000_000, **node},
            "node_config": {},
            "min_workers": 0,
            "max_workers": most,
        },
    }
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "gcs_address": address,
    }
    return {
        "cluster_name": "growing",
        "max_workers": most,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "upscaling_speed": 1000,
        "idle_timeout_minutes": idle_seconds / 60,
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in _LISTS},
    }


def _end(folder: str) -> None:
    """What has the cluster's folder on its command line."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if folder in path.read_text() and int(path.parent.name) != os.getpid():
                    os.kill(int(path.parent.name), kind)
            except OSError:  # It has ended meanwhile.
                continue
        time.sleep(1)
