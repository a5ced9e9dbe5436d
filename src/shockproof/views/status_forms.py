"""
Asking before something is changed on the status page, and telling that it was: plain forms, without a script.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shockproof.views.status_page import document
from shockproof.views.words import markup

__all__ = ["CHANGES", "Change", "asked", "done"]


class Change(NamedTuple):
    """Something that can be changed: how it is asked for, what it means, and whether a reason is needed."""

    title: str
    meaning: str
    button: str
    reason: str | None
    """What the reason is for; None: there is none."""
    is_reason_needed: bool = False
    is_dangerous: bool = False


CHANGES: Final = {
    "reset": Change(
        "Reset the circuit of {}?",
        "It closes at once, and its failures are forgotten: the next calls go out, to a service that may still be down.",
        "Reset the circuit",
        None,
    ),
    "force-open": Change(
        "Hold the circuit of {} open?",
        "From now on all of its calls are refused, but those that reduce risk, until somebody releases it; fallbacks answer. "
        "Calls that are under way are not taken back.",
        "Hold it open",
        "Why, for the health, events and the errors of refused calls",
        is_dangerous=True,
    ),
    "release": Change(
        "Release the circuit of {}?",
        "It works by its rules again, beginning closed with nothing counted: the next calls go out.",
        "Release it",
        "Why, for the health and events",
    ),
    "halt": Change(
        "Halt everything?",
        "From now on nothing is sent but reads and what reduces risk, also after a restart, until somebody resumes. "
        "What was sent is not taken back.",
        "Halt everything",
        "Why, for the errors, the health and whoever resumes",
        is_reason_needed=True,
        is_dangerous=True,
    ),
    "resume": Change(
        "Resume?",
        "Everything may be sent again from now on. What was refused is not sent by itself.",
        "Resume",
        None,
    ),
}


def asked(what: str, *, service_id: str, name: str, reason: str = "", problem: str = "") -> str:
    """The page that asks; *problem*: why what was answered there before was not done."""
    change = CHANGES[what]
    title = change.title.format(name)
    complaint = f'<p class="problem" role="alert" id="problem">{markup(problem)}</p>' if problem else ""
    reason_field = ""
    if change.reason is not None:
        needed = " required" if change.is_reason_needed else ""
        reason_field = (
            '<label for="reason">Reason</label>'
            f'<input id="reason" name="reason" value="{markup(reason)}" maxlength="300" autocomplete="off" '
            f'aria-describedby="reason-hint"{needed}><p class="hint" id="reason-hint">{markup(change.reason)}'
            f"{'' if change.is_reason_needed else '; may be left out'}.</p>"
        )
    danger = ' class="danger"' if change.is_dangerous else ""
    body = f"""<main class="ask"><section aria-labelledby="question">
<h1 id="question">{markup(title)}</h1>
<p>{markup(change.meaning)}</p>
{complaint}<form action="change" method="post">
<input type="hidden" name="what" value="{markup(what)}">
<input type="hidden" name="service" value="{markup(service_id)}">
{reason_field}
<label for="token">Token</label>
<input id="token" name="token" type="password" required autocomplete="current-password" aria-describedby="token-hint">
<p class="hint" id="token-hint">The one that the program was started with.</p>
<p class="buttons"><button{danger}>{markup(change.button)}</button> <a href="../status">Cancel</a></p>
</form></section></main>"""
    return document(title, body, root="")


def done(title: str, text: str, *, is_done: bool) -> str:
    """The page that says what became of it."""
    sign = "good" if is_done else "bad"
    body = f"""<main class="ask"><section aria-labelledby="outcome">
<h1 id="outcome" class="{sign}">{markup(title)}</h1>
<p role="status">{markup(text)}</p>
<p class="buttons"><a class="button" href="../status" autofocus>Back to the status</a></p>
</section></main>"""
    return document(title, body, root="")
