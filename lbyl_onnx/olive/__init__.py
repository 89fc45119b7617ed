"""Compression as a pass of Olive (olive-ai): what a recipe may say of it, and how Olive comes to know it."""
