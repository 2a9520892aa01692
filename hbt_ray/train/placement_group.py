"""What a run's workers reserve, and how it is given back when the process that asked for it was killed.

Ray gives a placement group back when its job ends, and Ray Train has a watcher that does so earlier; it asks the API
server, which a session on one machine does not have. A search is one long job that stops trials all the time
(ray#54305).
"""

from __future__ import annotations

from hbt_ray.run_dir import RunDir
from hbt_ray.storage import write_text


def note_reservation(run: RunDir) -> None:
    """Called by the first rank: what it runs in is the run's."""
    import ray

    if group := ray.util.get_current_placement_group():
        write_text(run.reservation, group.id.hex())


def give_back(run: RunDir) -> None:
    """Give back what a run holds, if anything; whoever trains it ends. Needs a Ray session."""
    from ray import PlacementGroupID
    from ray.util import placement_group_table, remove_placement_group
    from ray.util.placement_group import PlacementGroup

    try:
        held = run.reservation.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    run.reservation.unlink(missing_ok=True)
    if placement_group_table().get(held, {}).get("state", "REMOVED") != "REMOVED":  # It may be of an earlier cluster.
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(held)))
