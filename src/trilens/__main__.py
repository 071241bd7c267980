"""`python -m trilens` is `trilens`."""

import sys

from trilens.cli import main

sys.exit(main())
