"""The models: what is computed. Knows no HTTP, no queue, no download, no environment."""
