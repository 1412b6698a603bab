"""Stands before the package of this name in the processes that tests start (see ``conftest``)."""

raise ImportError("left out of what tests start")
