"""An agent that is restarted: ADD and CHECK wait for it, bounded; DEL, GC and STATUS do not."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.unit.cni.conftest import DEADLINE_S, PATIENCE_S
from tests.unit.cni.harness import RESULT, Agent, Behaviour, Finished, Shim, answering, reply

BACK_S = 0.2


@contextmanager
def in_background(work: Callable[[], Finished]) -> Iterator[list[Finished]]:
    found: list[Finished] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    yield found
    thread.join(10)


def leave_stale(shim: Shim) -> None:
    """The socket file of an agent that was killed."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(shim.socket_path))


def first(behave: Behaviour) -> Behaviour:
    """Behaves so to the first request, and answers all others."""
    met: list[bytes] = []

    def either(connection: socket.socket, request: bytes) -> None:
        met.append(request)
        (behave if len(met) == 1 else answering(reply()))(connection, request)

    return either


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
@pytest.mark.parametrize("left", ["nothing", "a stale socket"])
def test_waits_for_an_agent_that_comes_back(shim: Shim, command: str, left: str) -> None:
    if left != "nothing":
        leave_stale(shim)
    with in_background(lambda: shim.run(command)) as found:
        time.sleep(BACK_S)
        shim.socket_path.unlink(missing_ok=True)
        with Agent(shim.socket_path) as agent:
            while not found:
                time.sleep(0.005)
    assert (found[0].code, found[0].out) == (0, RESULT)
    assert found[0].seconds > BACK_S * 0.8
    assert len(agent.requests) == 1


@pytest.mark.parametrize("part", [b"", reply()[:-1]], ids=["no answer", "half an answer"])
def test_asks_again_when_the_agent_was_killed_before_its_answer_was_whole(shim: Shim, part: bytes) -> None:
    """The ADD may have been journalled: the very same request gets the same address."""
    with Agent(shim.socket_path, first(answering(part))) as agent:
        done = shim.run("ADD")
    assert (done.code, done.out) == (0, RESULT)
    assert len(agent.requests) == 2
    assert agent.requests[0] == agent.requests[1]


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_patience_ends(shim: Shim, command: str) -> None:
    leave_stale(shim)
    done = shim.run(command)
    assert "Connection refused" in done.error(11)
    assert PATIENCE_S * 0.5 < done.seconds < PATIENCE_S + 2


def test_patience_ends_with_an_agent_that_hangs_up_every_time(shim: Shim) -> None:
    with Agent(shim.socket_path, answering(b"")) as agent:
        done = shim.run("ADD")
    assert "it hung up without an answer" in done.error(11)
    assert PATIENCE_S * 0.5 < done.seconds < DEADLINE_S + 2
    assert 4 <= len(agent.requests) <= 12, "the pauses grow"


def test_what_is_answered_is_not_asked_again(shim: Shim) -> None:
    error = b'{"cniVersion":"1.0.0","code":11,"msg":"nothing free","details":""}'
    for raw in (reply(error, status="500 X"), reply(b"[{}]")):
        with Agent(shim.socket_path, answering(raw)) as agent:
            assert shim.run("ADD").code == 1
        assert len(agent.requests) == 1


@pytest.mark.parametrize(("command", "code"), [("GC", 11), ("STATUS", 50)])
def test_gc_and_status_say_at_once_that_there_is_no_agent(shim: Shim, command: str, code: int) -> None:
    leave_stale(shim)
    done = shim.run(command)
    assert "Connection refused" in done.error(code)
    assert done.seconds < PATIENCE_S


def test_del_is_spooled_at_once(shim: Shim) -> None:
    leave_stale(shim)
    done = shim.run("DEL")
    assert (done.code, done.out) == (0, b"")
    assert done.seconds < PATIENCE_S
    assert len(list(shim.spool.glob("*.del"))) == 1
