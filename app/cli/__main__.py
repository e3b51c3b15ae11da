"""`python -m app.cli`: what launch.py hands over to."""

import sys

from app.cli import main

sys.exit(main(prog="python launch.py"))
