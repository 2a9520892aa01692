"""The report of a search: one self-contained HTML file with an answer, figures and all trials."""

from hbt_ray.tune.report.page import write_report

__all__ = ["write_report"]
