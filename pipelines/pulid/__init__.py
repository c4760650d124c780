"""PuLID v1 on SDXL-Lightning: identity tokens with the orthogonal projection (arXiv:2404.16022)."""
