"""The report: one self-contained HTML file with tables and figures; its headline also for papers."""

from __future__ import annotations

from hbt_ray.evaluate.report.page import write_report

__all__ = ["write_report"]
