"""`python -m agent.proxy`: the process of a worker, as control starts it."""

import logging
import sys

import trio

from agent.proxy.process import main
from agent.visible import VisibleFormatter

# Not structlog: it imports rich where that is installed, and memory is per worker.
_handler = logging.StreamHandler(sys.stderr)
_handler.setFormatter(VisibleFormatter())
logging.basicConfig(handlers=[_handler], level=logging.INFO)
trio.run(main)
