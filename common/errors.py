"""The error for mistakes that the user can mend."""


class UserError(Exception):
    """A mistake in the data, configuration or files that the user gave.

    The message names the file or key, what was found and what was expected. Commands print it
    without a traceback and exit with status 2.
    """
