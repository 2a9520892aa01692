"""What does a larger encoder gain at equal steps, and at equal compute?

Encoders from scratch of different depth and width. `equal=steps` trains all of them for the steps of the configuration.
`equal=compute` gives a smaller encoder more steps, so that layers x width^2 x steps is that of the configuration. For
pretrained encoders write a space with `{"model.name": [...]}`.

Costs eight runs; large encoders at equal steps take the longest.
"""

from typing import Any

from hbt_ray.tune import Space

SIZES = {"1x64": (1, 64, 2), "2x128": (2, 128, 4), "4x128": (4, 128, 4), "4x256": (4, 256, 8)}
"""Name → layers, width, heads."""


def configure(values: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    layers, width, heads = SIZES[values["size"]]
    keys: dict[str, Any] = {"model.layers": layers, "model.width": width, "model.heads": heads}
    if values["equal"] == "compute":
        usual = base["model"]["layers"] * base["model"]["width"] ** 2
        # Steps are a multiple of the checkpoint interval, so that all trials have the same number of validations.
        factor = usual / (layers * width**2)
        every = max(1, round(base["checkpoints"]["every"] * factor))
        keys["checkpoints.every"] = every
        keys["optimiser.steps"] = max(1, base["optimiser"]["steps"] // base["checkpoints"]["every"]) * every
    return keys


SPACE = Space(search={"size": list(SIZES), "equal": ["steps", "compute"]}, configure=configure)
