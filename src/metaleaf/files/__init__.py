"""Files that are whole or not there, tensors in files, and files that were looked through once."""
