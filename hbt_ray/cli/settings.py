"""The `key=value` settings of commands that have no YAML file of their own, and a table of all commands' settings.

Importing this module imports torch and Ray, so commands import it when they run. `settings_help` reads its source.
"""

from __future__ import annotations

from pydantic import Field

from hbt_ray.config import Config
from hbt_ray.data.prepare.config import StoreConfig
from hbt_ray.retrieval.encoder import EncodingConfig
from hbt_ray.retrieval.mining.candidates import MineConfig
from hbt_ray.retrieval.mining.rescore import RescorerConfig
from hbt_ray.retrieval.search.faiss_index import IndexConfig
from hbt_ray.retrieval.search.sharded_index import SearchConfig
from hbt_ray.retrieval.transforms.methods import AnyMethod
from hbt_ray.storage.location import Location
from hbt_ray.train.config import TrainConfig
from hbt_ray.tune.config import TuneConfig


class MineSettings(MineConfig):
    """Settings of `hbt mine`."""

    encoder: EncodingConfig = EncodingConfig()
    rescorer: RescorerConfig | None = None
    """Cross-encoder whose scores are kept for distillation. Default: the scores of MODEL are kept."""

    @property
    def mining(self) -> MineConfig:
        return MineConfig.model_validate(self.model_dump(include=set(MineConfig.model_fields)))


class IndexSettings(Config):
    """Settings of `hbt index build`."""

    encoder: EncodingConfig = EncodingConfig()
    index: IndexConfig = IndexConfig()


class EvaluateSettings(Config):
    """Settings of `hbt evaluate`."""

    name: str = ""
    """Name of the results of a model that is not a run. Default: made from MODEL."""
    storage_path: Location = "runs"
    """Folder where the results of models that are not runs go, below `name`."""
    posthoc: str = ""
    """Transform of the vectors that `hbt posthoc` fitted: its name, such as `centering`, or its file."""
    trec_depth: int = Field(0, ge=0)
    """Also write a TREC run of the pool of all languages with this many passages per question. 0 writes none."""
    encoder: EncodingConfig = EncodingConfig()
    search: SearchConfig = SearchConfig()


class PosthocSettings(Config):
    """Settings of `hbt posthoc`."""

    name: str = ""
    """Name of a hub model's folder below `storage_path`, as in `hbt evaluate`. Default: made from MODEL."""
    storage_path: Location = "runs"
    """Folder of the runs."""
    method: AnyMethod
    """Transform to fit. `--method` sets its kind."""
    encoder: EncodingConfig = EncodingConfig()


class TuneSettings(TrainConfig):
    """Settings of `hbt tune`: the training configuration that all trials share, and the `search.` keys."""

    search: TuneConfig = TuneConfig()

    @property
    def training(self) -> TrainConfig:
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.model_fields})


class DoctorSettings(Config):
    """Settings of `hbt doctor`."""

    storage_path: Location = "runs"
    """Folder of the runs, which all nodes must see."""
    network: bool = True
    """Measure the bandwidth between nodes."""
    seconds: float = Field(20, ge=1, le=3600)
    """Longest time in seconds that a node may take to report."""


COMMAND_SETTINGS: dict[str, type[Config]] = {
    "prepare": StoreConfig,
    "mine": MineSettings,
    "train": TrainConfig,
    "posthoc": PosthocSettings,
    "evaluate": EvaluateSettings,
    "index build": IndexSettings,
    "tune": TuneSettings,
    "doctor": DoctorSettings,
    "demo": TrainConfig,
}
