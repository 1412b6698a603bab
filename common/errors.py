"""Errors that are a person's to mend, not ours."""


class UserError(Exception):
    """A mistake in what the project was given: data, configuration, files.

    The message names the file or key, what was found and what was expected. Commands print it
    without a traceback and exit with status 2.
    """
