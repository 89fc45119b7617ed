"""Samples, and what activations look like on them."""
