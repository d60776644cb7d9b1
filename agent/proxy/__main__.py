"""`python -m agent.proxy`: the process of a worker, as control starts it."""

import logging
import sys

import trio

from agent.proxy.worker import main

# Not structlog: it imports rich where that is installed, and memory is per worker.
logging.basicConfig(
    stream=sys.stderr, level=logging.INFO, format='timestamp=%(asctime)s level=%(levelname)s event="%(message)s"'
)
trio.run(main)
