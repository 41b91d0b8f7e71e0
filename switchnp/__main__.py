"""`python -m switchnp` is the command `switchnp`."""

import sys

from .cli import main

sys.exit(main())
