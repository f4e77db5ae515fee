"""What the Hub's client raises while pushing, in one line: what, the way out, what is left."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # the base of all its requests'
    HTTPError as RequestError,
)

from wszoo.hub_client import unsigned
from wszoo.publish.over_xet import XetError
from wszoo.publish.silence import limited

NOTHING = "nothing was published"
_LOGIN = "run `hf auth login`"
_LATER = "try again later"


class VerificationError(ValueError):
    """What was pushed did not come back the same."""


@contextmanager
def explained(repository: str, left: str = NOTHING, *, unanswered: str = "") -> Iterator[None]:
    """Turn what the client raises inside the block into one line; silence is an error, too.

    Args:
        left: What is published, where the Hub has refused.
        unanswered: The same where no answer came, if it is then another.

    Raises:
        PermissionError: There is no token, or it may not do this.
        ConnectionError: There is no network, or the Hub fails.
        FileNotFoundError: There is no such account or repository.
        ValueError: The Hub does not take what was sent.
        OSError: Somebody else changed the repository meanwhile; or a file cannot be read or
            written here.
        KeyboardInterrupt: As it came, with what is left as its message.
    """
    unknown = unanswered or left
    try:
        with limited():
            yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"stopped while pushing to {repository}; {unknown}") from stop
    except VerificationError:
        raise
    except LocalTokenNotFoundError as error:
        raise PermissionError(_line(repository, "no token is here", _LOGIN, left)) from error
    except OfflineModeIsEnabled as error:
        reason = "the client is told to stay offline"
        raise ConnectionError(_line(repository, reason, "unset HF_HUB_OFFLINE", left)) from error
    except HfHubHTTPError as error:
        raise _refusal(repository, error, left, unknown) from error
    except (RequestError, LocalEntryNotFoundError) as error:
        reason = f"no answer from {constants.ENDPOINT} ({_first_line(error)})"
        line = _line(repository, reason, "see to the network", unknown)
        raise ConnectionError(line) from error
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        if not (isinstance(error, json.JSONDecodeError) or _is_of_the_client(error)):
            raise
        reason = f"{constants.ENDPOINT} does not answer as the Hub does"
        line = _line(repository, reason, "see to HF_ENDPOINT and to login pages", unknown)
        raise ConnectionError(line) from error
    except ValueError as error:  # of the card's front matter, or of one file
        reason = " ".join(line.strip("- ") for line in str(error).splitlines()[:2])
        raise ValueError(_line(repository, reason, "correct it", left)) from error
    except XetError as error:
        mend = "set HF_HUB_DISABLE_XET=1 and repeat the command"
        raise ConnectionError(_line(repository, _first_line(error), mend, unknown)) from error
    except RuntimeError as error:  # so the client tells of files that it could not upload
        cause = f": {_first_line(error.__cause__)}" if error.__cause__ else ""
        reason = f"{_first_line(error).rstrip('.')}{cause}"
        raise ConnectionError(_line(repository, reason, _LATER, unknown)) from error
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):  # it says all that already
            raise
        reason = f"{error.filename or 'this machine'}: {error.strerror}"
        mend = "see to that and repeat the command"
        raise OSError(_line(repository, reason, mend, unknown)) from error


def _refusal(repository: str, error: HfHubHTTPError, left: str, unknown: str) -> Exception:
    status = error.response.status_code
    told = _first_line(error.server_message) if error.server_message else ""
    said = f" (status {status}{': ' + told if told else ''})"
    if status == 401:
        reason, kind = "the Hub does not know this token", PermissionError
        return kind(_line(repository, reason + said, _LOGIN, left))
    if status == 403:
        reason = "this token may not do that" + said
        mend = "use one with the right to write there, or name another --repo"
        return PermissionError(_line(repository, reason, mend, left))
    if status == 404:
        reason = "no such account or repository" + said
        mend = "`hf auth whoami` shows the accounts that you can write to"
        return FileNotFoundError(_line(repository, reason, mend, left))
    if status in (409, 412):
        reason = "somebody else changed it meanwhile" + said
        return OSError(_line(repository, reason, "look at what they did, then repeat", left))
    if status == 429:
        wait = error.response.headers.get("Retry-After")
        mend = f"wait {wait} seconds" if wait else "wait some minutes"
        return ConnectionError(_line(repository, "too many requests" + said, mend, left))
    if status >= 500:
        return ConnectionError(_line(repository, "the Hub fails" + said, _LATER, unknown))
    if isinstance(error, BadRequestError):
        reason = "the Hub does not take this" + said
        return ValueError(_line(repository, reason, "correct it", left))
    return ConnectionError(_line(repository, "the Hub refuses" + said, _LATER, left))


def _line(repository: str, reason: str, mend: str, left: str) -> str:
    return f"cannot push to {repository}: {reason}; {mend}; {left}"


def _first_line(text: object) -> str:
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return unsigned(lines[0]) if lines else type(text).__name__


def _is_of_the_client(error: Exception) -> bool:
    """Whether the client stumbled, rather than this package."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return str(where).partition(".")[0] == "huggingface_hub"
