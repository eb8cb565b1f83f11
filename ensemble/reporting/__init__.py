"""What people look at: pages of HTML (`report.py`), figures as SVG, tables as CSV. Reads and draws; trains nothing."""
