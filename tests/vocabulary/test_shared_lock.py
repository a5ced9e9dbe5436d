"""One lock for many objects is never left locked."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from shockproof.vocabulary.shared_lock import shared_lock


def test_it_can_be_taken_again_while_it_is_held() -> None:
    """A garbage collection inside it may end a call of a dead loop, which takes it."""
    lock = shared_lock()
    with lock, lock:
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_finds_it_free_although_a_thread_of_the_parent_held_it() -> None:
    """Else the first failure in the child would wait for a thread that does not exist there."""
    program = """
        import os, threading
        from shockproof.vocabulary.shared_lock import shared_lock
        lock = shared_lock()
        held, forked = threading.Event(), threading.Event()
        def hold():
            with lock:
                held.set()
                forked.wait(60)
        threading.Thread(target=hold).start()
        held.wait(60)
        child = os.fork()
        if child == 0:
            with lock:
                os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        forked.set()
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout.split(), done.stderr) == (["7"], "")
