"""What is shown to people: result tables, leaderboards, plots."""

from recbole_msr.report.table import markdown, print_result, result_table

__all__ = ["markdown", "print_result", "result_table"]
