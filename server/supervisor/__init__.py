"""What keeps worker processes alive: one place per GPU, restarts, quarantine."""
