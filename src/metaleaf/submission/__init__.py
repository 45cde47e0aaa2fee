"""Whether a contributed set of records keeps the rules (docs/rules.md)."""
