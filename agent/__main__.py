"""`python -m agent` is `shoal`."""

from agent.cli.main import main

main()
