"""Layers x token filters -> one tidy table, resumable after a kill."""
