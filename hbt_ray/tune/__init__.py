"""Hyper-parameter search with Ray Tune; every trial is a run of `hbt_ray.train`.

space            the keys that a search varies; the modules of `tune_spaces/` are examples
config           settings of a search: grid, random, Optuna or PBT; rungs, budgets
search           the whole search, and its continuation after its driver died
tuner            search algorithm, scheduler, budget and restoring for Ray Tune
trainable        one trial: a run whose validations are reported to Ray Tune
pbt              lineages of a population, and the schedule of a lineage
recorder         writes events of trials into the search's folder
search_state     reads the events: trials, Pareto front, seed groups
results          tables, curves, the best configurations; the page is `hbt_ray.report.search_page`
critical_batch   the critical batch size of a search over batch sizes
"""

from hbt_ray.tune.space import Space

__all__ = ["Space"]
