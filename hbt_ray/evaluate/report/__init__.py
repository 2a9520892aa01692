"""The report: one self-contained HTML file with tables and figures."""

from __future__ import annotations

from hbt_ray.evaluate.report.page import write_report

__all__ = ["write_report"]
