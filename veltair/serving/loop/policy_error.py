"""The error of a policy that breaks its contract."""


class PolicyError(RuntimeError):
    """A policy broke its contract; the message names it."""
