"""The command `pointserve`: one command a module; app.py has their options."""

from service.cli.app import main

__all__ = ["main"]
