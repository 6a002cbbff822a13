"""The self-contained HTML page of a run, and the contact sheet of its videos."""

from magicvideo_core.report.contact_sheet import contact_sheet
from magicvideo_core.report.page import write_report

__all__ = ["write_report", "contact_sheet"]
