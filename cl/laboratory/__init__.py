"""Experiments on the built-in data: what collapses, and whether the field's claims hold here."""
