"""Answers from a table over HTTP, beside servers that only look up, and beside a build."""
