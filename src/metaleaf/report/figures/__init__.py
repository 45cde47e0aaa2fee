"""Figures from records.

One module per subject; `makers` lists the figures of the track of new clients, `metaleaf.report.figures.environments`
those of new environments. An algorithm has the same colour, marker and dashes in all of them (`style.looks`).
"""
