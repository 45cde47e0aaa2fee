"""Operators of small models, recorded below vmap and replayed without the plugin."""
