"""`python -m fastopt` is the command `fastopt`."""

import sys

from .cli import main

sys.exit(main())
