"""`python -m shiftboss.cli`."""

import sys

from shiftboss.cli import console

if __name__ == "__main__":
    sys.exit(console())
