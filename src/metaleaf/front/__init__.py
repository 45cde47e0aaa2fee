"""What `import metaleaf as ml` gives: the whole suite from Python, in a script or a notebook (docs/python.md)."""
