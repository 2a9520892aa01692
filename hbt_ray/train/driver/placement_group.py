"""Releases the placement group of a run whose driver was killed.

Ray releases a placement group when its job ends. Ray Train has an actor that does so earlier, but that actor needs the
API server, which a session on one machine does not have. A search is one long job in which trials are stopped all the
time (ray#54305), so rank 0 writes the group's id into the run folder, and whoever stops a trial releases it.
"""

from __future__ import annotations

from hbt_ray.run_dir import RunDir


def release_placement_group(run: RunDir) -> None:
    """Release the placement group of a run, if it has one; its workers end. Needs a Ray session."""
    from ray import PlacementGroupID
    from ray.util import placement_group_table, remove_placement_group
    from ray.util.placement_group import PlacementGroup

    try:
        group_id = run.placement_group.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    run.placement_group.unlink(missing_ok=True)
    # The group may be of an earlier cluster, which this one does not know.
    if placement_group_table().get(group_id, {}).get("state", "REMOVED") != "REMOVED":
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group_id)))
