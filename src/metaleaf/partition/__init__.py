"""Other federations of a dataset's examples: clients dealt out anew, or changed each in its own way."""
