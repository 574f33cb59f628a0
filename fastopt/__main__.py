"""`python -m fastopt` is the command `fastopt`."""

import sys

from .command.main import main

sys.exit(main())
