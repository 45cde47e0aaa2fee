"""Figures from records.

One module per subject; `makers` lists the figures of the track of new clients, `metaleaf.environment_figures` those of
new environments. An algorithm has the same colour, marker and dashes in all of them (`style.looks`).
"""
