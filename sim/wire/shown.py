"""What may be shown of a broker's URL, and of a text that may hold one: never what could be a password. Whatever prints a URL asks here.

Rules
-----
1. Scheme, host and port are shown, and only where they are beyond doubt. User, password, path, query and fragment never are.
2. What can be read in more ways than one is not shown, an ellipsis stands in its place: where an ``@`` is missing the password is a part of
   the host, and where one of ``/ ? #`` in a password is not written as ``%2F %3F %23``, a part of it looks like host, path or query.
   Digits that are no port count as a password; those that are one cannot be told from it, as in ``redis://user:12345``, and are shown.
3. A text without a scheme is shown where it is a host, with or without its port; else up to its first colon, if that is a word.
"""

from __future__ import annotations

import re

HIDDEN = "…"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,15})://(.*)", re.DOTALL)
_PORT = r"[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_HOST = re.compile(rf"(?:\[[0-9A-Fa-f:.]{{2,45}}\]|[\w.-]{{1,253}})(?::(?:{_PORT}))?|", re.ASCII)
_WORD = re.compile(r"[\w.-]{1,64}", re.ASCII)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}://[^\s'\"<>`]*(?:[^\s]*@[^\s'\"<>`]*)?")
_NAMED = re.compile(r"(?i)\b((?:(?:ssl_)?password|passwd|pwd|secret|(?:admin_)?token)=|bearer +)[^\s&'\"<>]+")
_NEXT = re.compile(r"\s+(?=[A-Za-z][A-Za-z0-9+.-]*://)")


def shown_url(text: str) -> str:
    """Return what may be shown of a text that is meant as a URL, or as those of several nodes with spaces between them."""
    return " ".join(_shown(one) for one in _NEXT.split(text.strip()))


def is_hidden(shown: str) -> bool:
    """Return whether a shown URL is one that can be read in more ways than one."""
    return shown.endswith(HIDDEN)


def without_secrets(text: str) -> str:
    """Return a text, such as the message of an error, with each URL in it as it may be shown, and no password or token after its name."""
    return _NAMED.sub(rf"\1{HIDDEN}", _URL.sub(lambda found: _in_a_sentence(found[0]), text))


def secrets_of(text: str) -> list[str]:
    """Return the parts of a URL that nobody may see, the whole first: as they stand there."""
    found = _SCHEME.fullmatch(text.strip())
    if found is None or shown_url(text) == text.strip():
        return []
    userinfo, at, _ = found[2].rpartition("@")
    parts = [text.strip(), found[2], *([userinfo, userinfo.partition(":")[2]] if at else [])]
    parts += re.findall(r"(?i)(?:password|token|secret)=([^&#\s]+)", found[2])
    return [part for part in dict.fromkeys(parts) if part]


def _shown(text: str) -> str:
    found = _SCHEME.fullmatch(text)
    if found is None:
        word = text.partition(":")[0]
        return text if _HOST.fullmatch(text) else f"{word}:{HIDDEN}" if _WORD.fullmatch(word) and "@" not in text else HIDDEN
    scheme, rest = found.groups()
    before, _, after = rest.rpartition("@")
    authority = re.split(r"[/?#]", after)[0]
    if re.search(r"[/?#]", before) or not _HOST.fullmatch(authority):
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{authority}"


def _in_a_sentence(url: str) -> str:
    """Return a URL of a sentence as it may be shown, with the marks that follow it; a pattern of ours, such as HOST[:PORT], as it is."""
    bare = url.rstrip(".,;:!?)")
    if re.fullmatch(r"rediss?://(?:\[?USER:PASSWORD@\]?)?HOST(?:\[?:PORT\]?)?|rediss?://…?", bare):
        return url
    return shown_url(bare) + url[len(bare) :]
