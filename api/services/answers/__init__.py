"""Answers made of what many jobs have reached."""
