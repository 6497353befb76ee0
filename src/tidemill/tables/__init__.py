"""Answers prepared beforehand: keys, tables and their catalogue; no model runs here."""

from tidemill.tables.table import Table, TableInfo

__all__ = ["Table", "TableInfo"]
