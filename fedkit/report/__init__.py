"""What a run leaves to look at: report.html, and a page and a CSV file that compare runs."""

from fedkit.report.compare import summary_rows, write_compare
from fedkit.report.page import write_report

__all__ = ["summary_rows", "write_compare", "write_report"]
