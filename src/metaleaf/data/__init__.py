"""From publishers' files to clients' episodes."""
