"""``python -m workflows`` does what the command ``tru`` does."""

import sys

from workflows.cli import main

if __name__ == "__main__":
    sys.exit(main())
