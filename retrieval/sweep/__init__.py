"""Sweeps: many jobs from one command, their plan, what they cost and how far they are."""
