"""Addresses without what lets one in: that is taken out at the door, and kept in memory alone.

What is stored or printed is an address as it came out of `take`. A process that comes later takes user
names, passwords, keys and tokens from the environment, under the names that each provider's own tools
have for them.
"""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode

WHOLE = re.compile(
    r"(?P<flag>--[\w.-]+=)?\s*(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,24}://)(?P<rest>[^\s'\"]*)\s*"
)
BUCKET = re.compile(r"([^:/?#@]+):(.+?)@([A-Za-z0-9][A-Za-z0-9.-]*(?:/.*)?)")
# Credentials in a text: a name and a password that is no port, a token, parameters of a query. An address
# that was taken for a path has lost one of its slashes.
KNOWN = r"(?i:https?|s3|gs|s?ftp|redis|postgresql(?:\+\w+)?|mysql(?:\+\w+)?)"
HELD = re.compile(
    rf"([A-Za-z][A-Za-z0-9+.-]{{0,24}}://|\b{KNOWN}:/)"
    r"[^\s/?#@:'\"]*:(?!\d+(?:[/?#\s'\"]|$))[^\s'\"]*@"
    r"|((?i:https?|s3|postgresql(?:\+\w+)?|mysql(?:\+\w+)?):/{1,2})[^\s/?#@:'\"]+@"
)
NAMED = re.compile(
    r"([?&](?:user|password|sslpassword|token|secret|key)=)[^&\s'\"]+", re.IGNORECASE
)


class BadAddress(ValueError):
    """An address whose credentials cannot be kept apart from it. The message says what would do."""

    exit_code = 2


class Names(NamedTuple):
    """Variables of the environment that hold credentials."""

    user: str
    password: str
    token: str | None = None  # where a name alone is one


SERVER = Names("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SCHEMES = {
    "http": SERVER,
    "https": SERVER,
    "postgresql": Names("PGUSER", "PGPASSWORD"),
    "s3": Names("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
}


def take(address: str) -> str:
    """An address without credentials, which are in the environment from now on; other text as it is.

    Raises `BadAddress` where it holds credentials, and there is no place for those of its kind, or
    no telling where they end.
    """
    found = WHOLE.fullmatch(address)
    if found is None or found["flag"]:
        return address
    scheme = found["scheme"]
    rest = found["rest"]
    kind = scheme.removesuffix("://").lower().partition("+")[0]
    names = SCHEMES.get(kind)
    if kind == "s3":
        user, password, rest = _of_bucket(rest)
    else:
        user, password, rest = _of_server(rest)
    if names is None:
        if password is None:
            return address  # the @ of a container in a storage account, say
        raise BadAddress(
            f"{scheme}{hidden(rest)}: this address holds credentials, which would be stored with it; set "
            "them in the environment, as the provider has it"
        )
    path, mark, query = rest.partition("?")
    if kind != "s3" and "@" in path:
        raise BadAddress(
            f"an address that begins with {scheme} has an @ in more than one place, so that nobody knows "
            "where its password ends; write @ as %40 and / as %2F, or set "
            f"{names.user} and {names.password}"
        )
    if password is not None:
        _keep(names.user, user)
        _keep(names.password, password)
    elif user:
        alone = names.token is not None and not os.environ.get(names.password)
        _keep(names.token if alone and names.token else names.user, user)
    if mark:
        path += _query(kind, query, names)
    return f"{scheme}{path}"


def taken(value: object) -> object:
    """The same of whatever a setting was given."""
    return take(value) if isinstance(value, str) else value


def take_all(arguments: Iterable[str]) -> list[str]:
    """Arguments of a command line, `--flag=ADDRESS` among them, without credentials.

    What is an address as a whole is to be used, and its credentials are kept; out of other texts, such as
    a reason, credentials are left out.
    """
    return [_of_argument(argument) for argument in arguments]


def take_from_environment() -> None:
    """Takes credentials out of the addresses that variables of the environment give."""
    for name, value in list(os.environ.items()):
        if name == "MLFLOW_TRACKING_URI" or name.startswith("QDESK_"):
            os.environ[name] = _of_argument(value)


def hidden(text: str) -> str:
    """Text with the credentials of whatever addresses are in it left out."""
    if ":/" not in text:
        return text
    return NAMED.sub(r"\1…", HELD.sub(r"\1\2", text))


def _of_argument(argument: str) -> str:
    found = WHOLE.fullmatch(argument)
    if found is None:
        return hidden(argument)
    return f"{found['flag'] or ''}{take(found['scheme'] + found['rest'])}"


def _of_bucket(rest: str) -> tuple[str, str | None, str]:
    """Key, secret and what is behind them; a secret may hold a slash that nobody has escaped."""
    found = BUCKET.fullmatch(rest)
    return ("", None, rest) if found is None else (found[1], found[2], found[3])


def _of_server(rest: str) -> tuple[str, str | None, str]:
    """User, password and what is behind them, as RFC 3986 has it."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    credentials, mark, host = authority.rpartition("@")
    if not mark:
        return "", None, rest
    user, colon, password = credentials.partition(":")
    return user, password if colon else None, host + rest[len(authority) :]


def _query(kind: str, query: str, names: Names) -> str:
    """What is left of a query: of PostgreSQL's the parameters that let nobody in, of others nothing."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    if kind == "postgresql":
        _keep(names.user, given.pop("user", ""))
        _keep(names.password, given.pop("password", ""))
    if NAMED.search(f"?{urlencode(given)}"):
        raise BadAddress(
            f"an address that begins with {kind}:// holds credentials in its query, which would be "
            f"stored; set {names.user} and {names.password} in the environment"
        )
    return f"?{urlencode(given)}" if given else ""


def _keep(name: str, value: str) -> None:
    if "\0" in unquote(value):
        raise BadAddress(f"what is to be {name} holds a character that no variable can")
    if value:
        os.environ[name] = unquote(value)
