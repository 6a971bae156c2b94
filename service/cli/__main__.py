"""`python -m service.cli` is `pointserve`."""

from service.cli import main

main()
