"""Can't be imported: it wants to end the process."""

import sys

sys.exit(7)
