"""`python -m conffusion.cli`."""

import sys

from conffusion.cli import main

sys.exit(main())
