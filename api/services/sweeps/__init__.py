"""Sweeps: from one order to its jobs, and what is done to all of them."""
