"""Sheets, pages and tables of results."""
