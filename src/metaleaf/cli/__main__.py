"""``python -m metaleaf.cli``."""

import sys

from metaleaf.cli import main

sys.exit(main())
