"""Hide what looks like a secret before it is recorded. Pure functions.

A recorded command line is read by everybody who can see the task. Masking errs on the side of hiding:
the name is always kept, so that one sees that an option was given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

__all__ = ["MASK", "mask_argument", "mask_command", "mask_environment", "mask_text", "mask_url"]

MASK = "***"

# The last word of an option's or variable's name: --api-key, WANDB_API_KEY, --db_password, --hf-token.
# "tokens" and "tokenizer" are words of the trade and stay visible: the name must END in a secret word.
_SECRET_NAME = re.compile(
    r"(?:^|[-_.])(?:token|key|apikey|secret|password|passwd|passphrase|pwd|credentials?|auth)$", re.IGNORECASE
)
# SECRET or PASSWORD anywhere, as in --secret-access-id or PASSWORD_FOR_DB.
_SECRET_ANYWHERE = re.compile(r"secret|password|passphrase", re.IGNORECASE)

# Tokens that give themselves away by their shape: ours, OpenAI, Hugging Face, GitHub, GitLab, Slack, AWS, JWT.
_SECRET_VALUE = re.compile(
    r"\b(?:tlm_[0-9a-f]{12}_\w{16,}|sk-[\w-]{16,}|hf_\w{16,}|gh[oprsu]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)


def mask_command(argv: Sequence[str]) -> list[str]:
    """Return a command line with the values of secret-looking options and variables masked.

    `--token X`, `--token=X`, `API_KEY=X`, a password inside a URL, and strings that have the shape of
    a well-known token become `***`; everything else stays as it is.
    """
    masked: list[str] = []
    hide_next = False
    for word in argv:
        name, equals, value = word.partition("=")
        if hide_next and not (word.startswith("-") and len(word) > 1):
            masked.append(MASK)
            hide_next = False
        elif equals and _is_secret(name):
            masked.append(f"{name}={MASK if value else ''}")
            hide_next = False
        else:
            hide_next = word.startswith("-") and not equals and _is_secret(name)
            masked.append(_SECRET_VALUE.sub(MASK, mask_url(word)))
    return masked


def mask_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables as they may be recorded: the values of secret-looking names masked.

    The names are kept; a value that holds a URL's password or the shape of a well-known token is masked there.
    """
    return {
        name: (MASK if value else "") if _is_secret(name) else _SECRET_VALUE.sub(MASK, mask_url(value))
        for name, value in variables.items()
    }


def mask_argument(name: str, value: Any) -> Any:
    """Return a parsed argument as it may be recorded: the value of a secret-looking name, and secrets in texts, masked.

    Switches, and what is empty, have nothing to hide.
    """
    if _is_secret(name.rpartition("/")[2]):
        # Not by ==: of an array it is no bool.
        is_empty = isinstance(value, (str, list, tuple)) and not len(value)
        return value if value is None or isinstance(value, bool) or is_empty else MASK
    if isinstance(value, str):
        return _SECRET_VALUE.sub(MASK, mask_url(value))
    if type(value) in (list, tuple):
        return type(value)(mask_argument("", item) for item in value)
    return value


# NAME = "value" and name: value, as settings and code write them; the value up to its quote or the line's end.
_ASSIGNMENT = re.compile(r"""(?P<name>[\w.-]+)(?P<sign>["']?\s*[:=]\s*)(?P<quote>["'])(?P<value>[^"']+)(?P=quote)""")


def mask_text(line: str) -> str:
    """Return a line of code or of a diff as it may be recorded: literals of secret-looking names, passwords of URLs,
    and what has the shape of a well-known token, masked."""

    def hide(match: re.Match[str]) -> str:
        if not _is_secret(match["name"]):
            return match[0]
        return f"{match['name']}{match['sign']}{match['quote']}{MASK}{match['quote']}"

    hidden = _URL_PASSWORD.sub(rf"\1{MASK}@", _ASSIGNMENT.sub(hide, line))
    return _SECRET_VALUE.sub(MASK, hidden)


_URL_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/@]+@", re.IGNORECASE)


def mask_url(text: str) -> str:
    """Return `text` with the password of a URL of the form scheme://user:password@host masked."""
    if "://" not in text or "@" not in text:
        return text
    try:
        parts = urlsplit(text)
        if not parts.password:
            return text
        netloc = parts.netloc.replace(f":{parts.password}@", f":{MASK}@", 1)
        return urlunsplit(parts._replace(netloc=netloc))
    except ValueError:
        return text  # no URL after all: nothing in it can be a URL's password


def _is_secret(name: str) -> bool:
    bare = name.lstrip("-")
    return bool(_SECRET_NAME.search(bare) or _SECRET_ANYWHERE.search(bare))
