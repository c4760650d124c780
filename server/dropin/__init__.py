"""Drop-in: what a machine with fal clients must be told, and a program that checks it there."""
