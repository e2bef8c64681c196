"""Who may do what, and the log of what was done.

Two roles: a viewer reads, an editor also launches, stops, deletes, shares. On the command line whoever may
run the program is the editor of the files they may write. A server tells the engine how to find out who is
asking (`serve`), once per process and before anything else; from then on every call that changes something
asks `require_editor`, whatever button led to it, and a caller it knows nothing about is a viewer.

    audit.jsonl     one line per act, in the runs folder: time, who, role, action, target, more
"""

from __future__ import annotations

import contextlib
import fnmatch
import getpass
import ipaddress
import os
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine import files
from engine.errors import AccessError

EDITOR, VIEWER, NOBODY = "editor", "viewer", "nobody"
ROLES = (EDITOR, VIEWER, NOBODY)
LOG = "audit.jsonl"
# A proxy on this machine makes every visitor look local; these headers give it away.
PROXY_HEADERS = ("x-forwarded-for", "x-forwarded-host", "x-real-ip", "forwarded", "via", "cf-connecting-ip")


@dataclass(frozen=True)
class Actor:
    """Whoever asks. `role`: editor, viewer or nobody; `reason` says in a sentence why not editor."""

    name: str
    role: str
    reason: str = ""

    @property
    def may_edit(self) -> bool:
        return self.role == EDITOR

    @property
    def may_view(self) -> bool:
        return self.role in (EDITOR, VIEWER)


# -- who asks -------------------------------------------------------------------------------------

_finder: Callable[[], Actor] | None = None


def serve(finder: Callable[[], Actor] | None) -> None:
    """Tell the engine, for the life of this process, how to find out who is asking; None = a terminal again.

    `finder` is called at every question, in the thread that asks: callbacks and partial reruns of a page
    are answered like the page itself.
    """
    global _finder
    _finder = finder


def actor() -> Actor:
    """Whoever asks now. In a server whose finder fails: a viewer, never an editor."""
    if _finder is None:
        return local_actor()
    try:
        return _finder()
    except Exception as error:  # a question that cannot be answered must not open a door
        return Actor("unknown", NOBODY, f"Who is asking could not be found out ({type(error).__name__})")


def local_actor() -> Actor:
    """Whoever runs this program in a terminal."""
    return Actor(_login_name(), EDITOR)


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a passwd entry
        return "local"


def require_editor(action: str, who: Actor | None = None) -> Actor:
    """Whoever asks, if they may change something.

    Args:
        action: what is asked for, as it stands after `may not`: `delete runs`.
        who: asked for here; `actor()` unless given.

    Raises:
        AccessError: they may not.
    """
    who = who or actor()
    if who.may_edit:
        return who
    raise AccessError(
        f"You may not {action}",
        found=who.reason or f"{who.name} is a {who.role}",
        remedy="Ask an editor of this server, or log in as one",
    )


def require_viewer(what: str = "see this", who: Actor | None = None) -> Actor:
    """Whoever asks, if they may read.

    Raises:
        AccessError: they may not.
    """
    who = who or actor()
    if who.may_view:
        return who
    raise AccessError(
        f"You may not {what}", found=who.reason or f"{who.name} is not on the list", remedy="Log in"
    )


# -- roles ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AllowList:
    """Who is what, from a TOML file: `editors = ["a@lab.org", "*@lab.org"]`, `viewers = ["*"]`.

    A pattern without `sub:` is compared with the verified e-mail address, whatever its case; one that
    begins with `sub:` with the provider's own identifier, which no provider lets a user choose.
    """

    editors: tuple[str, ...] = ()
    viewers: tuple[str, ...] = ()

    def role_of(self, claims: Mapping[str, Any]) -> str:
        """editor, viewer or nobody, from the claims of an identity token."""
        if _matches(self.editors, claims):
            return EDITOR
        return VIEWER if _matches(self.viewers, claims) else NOBODY


def _matches(patterns: tuple[str, ...], claims: Mapping[str, Any]) -> bool:
    subject = str(claims.get("sub") or "")
    email = str(claims.get("email") or "").strip().lower()
    # A provider that says the address is not verified lets anyone claim a colleague's.
    if claims.get("email_verified") in (False, "false", 0):
        email = ""
    for pattern in patterns:
        if pattern.startswith("sub:"):
            if subject and subject == pattern[4:]:
                return True
        elif email and fnmatch.fnmatchcase(email, pattern.strip().lower()):
            return True
    return False


def read_allow_list(source: Path) -> AllowList:
    """The allow-list in a TOML file.

    Raises:
        AccessError: it is absent or says nothing that can be understood; nobody is let in then.
    """
    try:
        stored = tomllib.loads(Path(source).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AccessError(
            "Login is configured, but nobody is on the list",
            found=f"no {Path(source).name}",
            remedy='Write it: editors = ["you@example.org"] and viewers = ["*@example.org"]',
        ) from error
    except (OSError, ValueError) as error:
        raise AccessError(
            f"The allow-list {Path(source).name} cannot be read", found=str(error), remedy="Correct the file"
        ) from error
    lists = {name: stored.get(name, []) for name in ("editors", "viewers")}
    wrong = [name for name, value in lists.items() if not _is_list_of_text(value)]
    unknown = sorted(set(stored) - set(lists))
    if wrong or unknown:
        raise AccessError(
            f"The allow-list {Path(source).name} is not understood",
            found=", ".join([*wrong, *unknown]),
            remedy="Give editors and viewers, each a list of addresses in quotes",
        )
    return AllowList(tuple(lists["editors"]), tuple(lists["viewers"]))


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def logged_in(claims: Mapping[str, Any], allow_list: Path) -> Actor:
    """The role of a person whom the identity provider vouches for."""
    name = str(claims.get("email") or claims.get("name") or claims.get("sub") or "unknown")[:200]
    try:
        role = read_allow_list(allow_list).role_of(claims)
    except AccessError as error:
        return Actor(name, NOBODY, str(error))
    reasons = {
        EDITOR: "",
        VIEWER: f"{name} is a viewer here",
        NOBODY: f"{name} is not on the list of this server",
    }
    return Actor(name, role, reasons[role])


def without_login(headers: Mapping[str, str], peer: str | None, forced: str = "") -> Actor:
    """The role of a visitor where no login is configured: on this machine editor, from elsewhere viewer.

    Args:
        headers: of the request; names in any case.
        peer: address of the other end of the connection; None = loopback.
        forced: `editor` or `viewer` for everyone (the setting DASHBOARD_ROLE), else empty. `editor` is for
            a container whose port is published on this machine only: there the peer is the bridge.
    """
    if forced in (EDITOR, VIEWER):
        reason = "This server is set to read only" if forced == VIEWER else ""
        return Actor("local" if forced == EDITOR else "visitor", forced, reason)
    known = {name.lower(): value for name, value in headers.items()}
    proxied = [name for name in PROXY_HEADERS if known.get(name)]
    hosts = [known.get("host", ""), urlsplit(known.get("origin", "")).netloc]
    if not proxied and is_loopback(peer) and all(_is_local_host(host) for host in hosts if host):
        return local_actor()
    return Actor(
        str(peer or "visitor")[:80],
        VIEWER,
        "Without a login, whoever comes from another machine may only read",
    )


def is_loopback(address: str | None) -> bool:
    """Whether an address is this machine's own; None is."""
    if address is None:
        return True
    try:
        found = ipaddress.ip_address(address.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)  # ::ffff:127.0.0.1, of a socket that speaks both
    return (mapped or found).is_loopback


def _is_local_host(host: str) -> bool:
    """`localhost:8501`, `127.0.0.1`, `[::1]:8501`."""
    name = urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or (bool(name) and is_loopback(name))


# -- the log --------------------------------------------------------------------------------------


def log(runs: Path, action: str, target: str = "", who: Actor | None = None, **more: Any) -> None:
    """Write down that something was done. A log that cannot be written does not undo the act.

    Args:
        runs: the runs folder.
        action: one word: launch, resume, stop, delete, restore, share, revoke, report, bundle, import.
        target: the id of what it was done to.
    """
    who = who or actor()
    row = {"time": round(time.time(), 3), "who": who.name, "role": who.role, "action": action}
    with contextlib.suppress(OSError):
        Path(runs).mkdir(parents=True, exist_ok=True)
        files.append_line(Path(runs) / LOG, {**row, "target": target, **more})


def read_log(runs: Path, limit: int = 500) -> list[dict[str, Any]]:
    """The last acts, newest first."""
    return files.read_lines(Path(runs) / LOG)[-limit:][::-1]


def allow_list_path(root: Path) -> Path:
    """Where the allow-list lies: the setting DASHBOARD_ACCESS, or `access.toml` beside the code."""
    return Path(os.environ.get("DASHBOARD_ACCESS") or Path(root) / "access.toml")
