"""What is shown to people: result tables, leaderboards, plots."""

from recbole_msr.report.run.result_table import markdown, print_result, result_table

__all__ = ["markdown", "print_result", "result_table"]
