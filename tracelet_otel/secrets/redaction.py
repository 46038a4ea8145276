"""What is kept out of everything that we record of the process: every rule, in one place.

A secret becomes :data:`MASK`. It is known by its name or by its form.

By name: words are told apart by case and by any character that is neither letter nor digit.

* ``password``, ``passwd``, ``passphrase``, ``pwd``, ``secret``, ``secrets``, ``credential``, ``credentials``,
  ``authorization``, ``cookie``, ``apikey``, ``dsn`` anywhere in the name;
* ``token`` or ``pat`` as the last word, unless the word before it is one of a model's vocabulary
  (``pad_token``, ``eos_token``, ...); so ``hf_token`` is masked, ``max_tokens`` and ``token_dim`` are not;
* ``key`` after ``api``, ``access``, ``private``, ``secret``, ``account``, ``wandb`` and their like;
* ``keys`` and ``tokens`` after ``api``, ``access``, ``auth`` and ``private``.

True, False, None and empty text are no secrets, and numbers only where the name has a word of the first list.
What is in a list or an object of a secret's name is secret too.

By form, anywhere in a text: keys of AWS, GitHub, GitLab, Hugging Face, OpenAI, Anthropic, Google, Slack,
PyPI, npm and newer ones of W&B, JSON web tokens, ``Bearer`` and ``Basic`` credentials, private keys in PEM,
user and password in a URL, the signature of a signed URL, values after a secret's name and ``=`` or ``:``,
and after an option of such a name, unless a plain text has a lower-case word there (``set --token or``).
W&B's older keys, 40 hexadecimal digits, look like a git commit and are known by their name only.

The forms are those that the services document; https://docs.github.com/en/code-security/secret-scanning lists
most of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, cast
from urllib.parse import urlsplit, urlunsplit

MASK: Final = "***"

_ANYWHERE: Final = {
    *("password", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials"),
    *("authorization", "cookie", "apikey", "dsn", "passcode"),
}
_LAST: Final = {"token", "pat", "accesstoken", "authtoken"}
_VOCABULARY: Final = {
    *("pad", "padding", "eos", "bos", "unk", "sep", "cls", "mask", "start", "end", "stop", "special"),
    *(
        "image",
        "prefix",
        "suffix",
        "class",
        "per",
        "next",
        "first",
        "last",
        "new",
        "begin",
        "audio",
        "video",
        "eot",
    ),
    *("decoder", "separator", "sos", "eod", "newline", "additional", "max", "min", "each", "every", "single"),
}
_BEFORE_KEY: Final = {
    *("api", "access", "private", "secret", "account", "signing", "encryption", "ssh", "service", "auth"),
    *("wandb", "openai", "anthropic", "aws", "azure", "gcp", "google", "comet", "neptune", "clearml", "hf"),
    *("license", "subscription", "shared", "master", "webhook", "storage", "client", "deploy"),
}
_PLURALS: Final = {"keys", "tokens"}
_BEFORE_PLURAL: Final = {"api", "access", "auth", "private"}
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

# The repetitions have limits, or a long text could take quadratic time.
_KEYS: Final = re.compile(
    r"""\b(?:
        (?:AKIA|ASIA)[0-9A-Z]{16}                       # AWS access key id
        | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,}
        | glpat-[\w-]{20,}
        | hf_[A-Za-z0-9]{20,}
        | sk-[\w-]{20,}                                 # OpenAI, Anthropic
        | AIza[\w-]{35}                                 # Google
        | xox[a-z]-[\w-]{10,}                           # Slack
        | pypi-[\w-]{16,} | npm_[A-Za-z0-9]{30,}
        | wandb_v[0-9]_[\w-]{20,}
        | eyJ[\w-]{5,2000}\.[\w-]+\.[\w-]*                # JSON web token
    )""",
    re.VERBOSE,
)
_PEM: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_SCHEME: Final = re.compile(r"\b(bearer|basic)(\s+|%20)[\w.~+/=-]{8,}", re.IGNORECASE)
_USER_INFO: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#]+@")
_PASSWORD: Final = re.compile(  # with a "/", "?" or "#" in it; not the port of a URL whose path has an "@"
    r"([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#:@]{0,200}:(?!\d{1,5}[/?#])[^\s@\"']{1,200}@"
)
_SIGNATURE: Final = re.compile(r"([?&](?:X-Amz-|X-Goog-)?sig(?:nature)?=)[^\s&\"']+", re.IGNORECASE)
_OPTION: Final = re.compile(
    r"""(?<![\w-])(?P<name>--?[A-Za-z][\w-]{0,63})(?P<sign>["'],\s*["']|\s+(?![a-z]+\b))(?P<value>[^\s"',-][^\s"',]*)"""
)
_NAMED: Final = re.compile(
    r"""(?<![\w.-])(?P<name>[\w.-]{1,255})(?P<sign>["']?\s*(?:=|:(?!//))\s*)(?P<value>"[^"]*"|'[^']*'|[^\s"',&;}\])]+)"""
)


def is_secret_name(name: str) -> bool:
    """Whether what has this name is to be masked."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words:
        return False
    if _has_password(words):
        return True
    before = words[-2] if len(words) > 1 else ""
    if words[-1] in _LAST:
        return before not in _VOCABULARY
    return any(
        (second == "key" and first in _BEFORE_KEY) or (second in _PLURALS and first in _BEFORE_PLURAL)
        for first, second in pairwise(words)
    )


def redacted_text(text: str) -> str:
    """The text with everything masked that has the form of a secret."""
    text = _PEM.sub(MASK, text)
    text = _USER_INFO.sub(rf"\1{MASK}@", text)
    text = _SCHEME.sub(rf"\1\2{MASK}", text)
    text = _PASSWORD.sub(rf"\1{MASK}@", text)
    text = _SIGNATURE.sub(rf"\1{MASK}", text)
    text = _KEYS.sub(MASK, text)
    text = _NAMED.sub(_named, text)
    return _OPTION.sub(_option, text)


def redacted_value(name: str, value: Any) -> Any:
    """A value of that name; lists and dicts, whose own names count too, are gone through."""
    if isinstance(value, Mapping):
        values = cast("Mapping[Any, Any]", value)
        if not values or not is_secret_name(name):
            return redacted(values)
        if _has_password(_lower_words(name)):
            return MASK
        return {key: redacted_value(name, item) for key, item in values.items()}
    if isinstance(value, (list, tuple)):
        return [redacted_value(name, item) for item in cast("Sequence[Any]", value)]
    if value is None or isinstance(value, bool) or value == "":
        return value
    if is_secret_name(name):
        is_number = isinstance(value, (int, float))
        return value if is_number and not _has_password(_lower_words(name)) else MASK
    return redacted_text(value) if isinstance(value, str) else value


def redacted(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """A copy of named values, secrets masked."""
    return {name: redacted_value(str(name), value) for name, value in values.items()}


def redacted_json(payload: bytes) -> bytes:
    """A JSON object's bytes with secrets masked; the same bytes if it holds no secret.

    What is not a JSON object is masked as a text: its readers will refuse it.
    """
    try:
        values: dict[str, Any] = json.loads(payload)
        masked = redacted(values)
    except (ValueError, AttributeError):
        return redacted_text(payload.decode("utf-8", "replace")).encode()
    return payload if masked == values else json.dumps(masked).encode("ascii")


def redacted_command(words: Sequence[str]) -> list[str]:
    """A command line: ``--token X``, ``--token=X``, ``token=X``, and secrets of any form."""
    return list(_command(words))


def redacted_url(url: str) -> str:
    """A URL without user, password, query and fragment; the user of an SSH URL stays.

    ``user@host:path``, git's short form for SSH, has no password and stays as it is.
    """
    if "://" not in url:
        return redacted_text(url)
    try:
        parts = urlsplit(url)
        netloc, path = parts.netloc, parts.path
        if "@" in path and not _is_host(netloc):  # a "/" in the password
            netloc, _, path = path.rpartition("@")[2].partition("/")
            path = f"/{path}"
    except ValueError:
        return MASK
    user, _, host = netloc.rpartition("@")
    if "ssh" in parts.scheme and (user := user.partition(":")[0]):
        host = f"{user}@{host}"
    return urlunsplit((parts.scheme, host, redacted_text(path), "", ""))


def _command(words: Sequence[str]) -> Iterator[str]:
    is_value = False
    for word in words:
        if is_value and not word.startswith("-"):
            yield MASK
            is_value = False
            continue
        name, sign, value = word.partition("=")
        is_option = word.startswith("-")
        is_value = is_option and not sign and is_secret_name(name)
        if sign and value and "://" not in name and " " not in name:
            yield f"{name}={redacted_value(name, _number(value))}"
        else:
            yield redacted_text(word)


def _number(text: str) -> str | float:
    """So that ``--reset-token=3`` counts as a number. Other text stays exactly as it is."""
    try:
        value: str | float = int(text)
    except ValueError:
        return text
    return value if str(value) == text else text


def _named(match: re.Match[str]) -> str:
    value = match["value"]
    if not is_secret_name(match["name"]) or value.strip("\"'") in {"", MASK, "None", "null", "True", "False"}:
        return match[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{match['name']}{match['sign']}{quote}{MASK}{quote}"


def _option(match: re.Match[str]) -> str:
    return f"{match['name']}{match['sign']}{MASK}" if is_secret_name(match["name"]) else match[0]


def _has_password(words: Sequence[str]) -> bool:
    return not _ANYWHERE.isdisjoint(words)


def _lower_words(name: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(name)]


def _is_host(netloc: str) -> bool:
    host, _, port = netloc.rpartition("@")[2].partition(":")
    return bool(host) and (not port or port.isdigit() or host.startswith("["))
