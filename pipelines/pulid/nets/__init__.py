"""PuLID's own networks, built from the shapes in their checkpoints, with upstream key names."""
