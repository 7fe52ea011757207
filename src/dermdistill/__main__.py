"""`python -m dermdistill`."""

import sys

from dermdistill.cli import main

if __name__ == "__main__":
    sys.exit(main())
