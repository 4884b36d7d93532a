"""What a request can end in other than an answer, whatever protocol it came by."""

from enum import StrEnum


class Trouble(StrEnum):
    """Why a request is not answered."""

    BAD_REQUEST = "bad_request"
    NO_TENANT = "no_tenant"
    """No token, or nobody's."""
    NOT_FOUND = "not_found"
    """Nothing of that name is there, or it is another tenant's."""
    TOO_SLOW = "too_slow"
    """The client did not send its body in time."""
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    QUOTA = "quota"
    UNAVAILABLE = "unavailable"
    """The model is not ready, or the deadline cannot be met."""
    LATE = "late"
    """It was taken, but its turn did not come in time."""
    INTERNAL = "internal"


class ServiceError(Exception):
    """A request that is not answered; the message is for the client and holds nothing of others.

    `retry_after_s` is when to try again, `predicted_ms` when the answer would have come, from its arrival.
    """

    def __init__(
        self,
        trouble: Trouble,
        message: str,
        *,
        retry_after_s: float | None = None,
        predicted_ms: float | None = None,
    ) -> None:
        super().__init__(message)
        self.trouble = trouble
        self.retry_after_s = retry_after_s
        self.predicted_ms = predicted_ms


def bad_request(message: str) -> ServiceError:
    """Return the error of a request that is wrong in itself."""
    return ServiceError(Trouble.BAD_REQUEST, message)


def not_found() -> ServiceError:
    """Return the error of what is absent or another's: the same for both, in every word."""
    return ServiceError(
        Trouble.NOT_FOUND, "there is no such model or version; v2/repository/index lists yours"
    )
