"""The one base of every error that a user can cause."""


class ModnasError(ValueError):
    """A bad input, file, configuration or request.

    The message is one line that names the cause and the fix; the command line prints it as it is, without a traceback.
    """
