"""What was found, for others to check: JSON with a schema, and one page without external resources."""

from .data import report_data
from .page import page
from .write import write_report

__all__ = ["page", "report_data", "write_report"]
