"""What is wrong with a message, said so that its sender can mend it."""

import msgspec


class WireError(ValueError):
    """A message that is not as the protocol has it; the text is for whoever sent it."""


class UnsupportedError(WireError):
    """A message that is right, and asks for what is not offered here."""


class _Failure(msgspec.Struct):
    error: str


def error_body(message: str) -> bytes:
    """Return the JSON body of an answer that is an error."""
    return msgspec.json.encode(_Failure(message))


def error_text(body: bytes) -> str:
    """Return what an error's body says; where that is no error of the protocol, its first 200 bytes."""
    try:
        return msgspec.json.decode(body, type=_Failure).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:200].decode("utf-8", "replace")
