"""Show results to people: tables in a terminal, Markdown and LaTeX; pages with figures."""

from recbole_msr.report.run.result_table import markdown, print_result, result_table

__all__ = ["markdown", "print_result", "result_table"]
