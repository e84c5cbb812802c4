"""How a command ends. Exit codes, which scripts may rely on:

0  done, and the answer is good
1  done, and the answer is bad: no address could be had, the check found something, nothing was found
2  the command line or a file given on it is wrong
3  the cluster could not be asked: no connection, no permission, CRDs missing
4  refused: a guard forbids the action, or somebody else changed the object meanwhile
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    BAD_ANSWER = 1
    USAGE = 2
    CLUSTER = 3
    REFUSED = 4


class CliError(Exception):
    """Ends the command with one line on stderr: what, and how to put it right."""

    def __init__(self, message: str, fix: str = "", *, code: Exit = Exit.USAGE) -> None:
        super().__init__(f"{message} ({fix})" if fix else message)
        self.message = message
        self.fix = fix
        self.code = code
