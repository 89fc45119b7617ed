"""Measuring what came out, and telling it."""
