"""Making up for removed channels, from weights or from activations."""
