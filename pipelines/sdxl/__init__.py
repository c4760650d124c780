"""What both SDXL pipelines share, as functions and small modules."""
