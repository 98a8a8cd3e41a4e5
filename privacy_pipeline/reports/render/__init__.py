"""The report as HTML, PDF and charts."""
