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

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Credentials in an address: a name and a password, which may hold a slash but is no port; or a token.
HELD = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@:'\"]*:(?!\d+/)[^\s?#@'\"]*@"
    r"|((?:https?|s3|postgresql(?:\+\w+)?)://)[^\s/?#@:'\"]+@"
)


class BadAddress(ValueError):
    """An address whose credentials cannot be kept apart from it. The message names what would do."""


class Names(NamedTuple):
    """Variables of the environment that hold credentials."""

    user: str
    password: str
    token: str | None = None  # where a name alone is one


SCHEMES = {
    "http": Names("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    "https": Names("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    "postgresql": Names("PGUSER", "PGPASSWORD"),
    "s3": Names("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
}
PARAMETERS = {"user": 0, "password": 1}  # of a query, where an address may have them


def take(address: str) -> str:
    """An address without credentials, which are in the environment from now on.

    Args:
        address: or any other text, which comes back as it is.

    Raises:
        BadAddress: it holds credentials, and there is no place for those of its kind.
    """
    found = ADDRESS.match(address)
    if found is None:
        return address
    scheme = found[0].removesuffix("://").lower().partition("+")[0]
    credentials, rest = _divided(address[found.end() :])
    user, colon, password = credentials.partition(":")
    names = SCHEMES.get(scheme)
    if names is None:
        if not colon:
            return address  # the @ of a container in a storage account, say
        raise BadAddress(
            f"{found[0]}{rest}: this address holds credentials, which would be stored with it; set them "
            "in the environment, as the provider has it"
        )
    if credentials and colon:
        _keep(names.user, user)
        _keep(names.password, password)
    elif credentials:
        alone = names.token is not None and not os.environ.get(names.password)
        _keep(names.token if alone and names.token else names.user, user)
    if scheme == "postgresql":
        rest = _without_parameters(rest, names)
    return f"{found[0]}{rest}"


def taken(value: object) -> object:
    """The same of whatever a setting was given."""
    return take(value) if isinstance(value, str) else value


def take_all(arguments: Iterable[str]) -> list[str]:
    """Arguments of a command line, `--flag=ADDRESS` among them, without credentials."""
    return [_of_argument(argument) for argument in arguments]


def take_from_environment() -> None:
    """Takes credentials out of the addresses that variables of the environment give."""
    for name, value in list(os.environ.items()):
        if name == "MLFLOW_TRACKING_URI" or name.startswith("QDESK_"):
            os.environ[name] = _of_argument(value)


def hidden(text: str) -> str:
    """Text with the credentials of whatever addresses are in it left out."""
    return HELD.sub(r"\1\2", text) if "://" in text else text


def _of_argument(argument: str) -> str:
    found = ADDRESS.search(argument)
    if found is None:
        return argument
    return argument[: found.start()] + take(argument[found.start() :])


def _divided(rest: str) -> tuple[str, str]:
    """Credentials, and what is behind them; a key may hold a slash that nobody has escaped."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        credentials, _, host = authority.rpartition("@")
        return credentials, host + rest[len(authority) :]
    port = authority.rpartition(":")[2]
    if ":" in authority and not port.isdigit() and port and "@" in rest:
        credentials, _, behind = rest.rpartition("@")
        return credentials, behind
    return "", rest


def _without_parameters(rest: str, names: Names) -> str:
    where, mark, query = rest.partition("?")
    kept = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in PARAMETERS:
            _keep(names[PARAMETERS[name]] or "", value)
        else:
            kept.append((name, value))
    return f"{where}?{urlencode(kept)}" if mark and kept else where


def _keep(name: str, value: str) -> None:
    if value:
        os.environ[name] = unquote(value)
