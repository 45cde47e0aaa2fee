"""An algorithm over a cohort of clients: one after the other, or side by side."""
