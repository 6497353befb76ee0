"""Building a table, beside writing the same answers by hand."""
