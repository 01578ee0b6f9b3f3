"""`python -m whalescale.cli`: `ws`, where it is not installed."""

import sys

from whalescale.cli.main import main

sys.exit(main())
