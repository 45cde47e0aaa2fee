"""From numbers to cells of tables."""
