"""Whether another user may read a file, by its mode alone (no ACLs)."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine with all its groups."""

    name: str
    uid: int
    gids: frozenset[int]


def find_account(user: str) -> Account | None:
    """The user by name or number; `None` when there is none."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return None
    return Account(entry.pw_name, entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def unreadable_part(file: Path, account: Account) -> Path | None:
    """The folder on the way, or the file itself, that keeps the account from reading the file; `None`: it can read it."""
    if account.uid == 0:
        return None
    resolved = file.resolve()
    for folder in reversed(resolved.parents):
        if not _allows(folder.stat(), account, stat.S_IXUSR):
            return folder
    return None if _allows(resolved.stat(), account, stat.S_IRUSR) else resolved


def _allows(status: os.stat_result, account: Account, owner_bit: int) -> bool:
    """The kernel's rule: the first of owner, group, others that fits decides alone."""
    if status.st_uid == account.uid:
        return bool(status.st_mode & owner_bit)
    if status.st_gid in account.gids:
        return bool(status.st_mode & owner_bit >> 3)
    return bool(status.st_mode & owner_bit >> 6)
