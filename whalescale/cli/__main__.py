"""`python -m whalescale.cli`: how `ws up` starts the agent in the background."""

import sys

from whalescale.cli.main import main

sys.exit(main())
