"""One file per surface that fal's clients touch."""
