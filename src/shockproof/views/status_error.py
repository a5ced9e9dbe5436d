"""One error of the status page's stream, whole: its trace, its context, and what stands in its line of the log."""

from __future__ import annotations

import json
from typing import Any

from shockproof.memory.error_log.capture import CapturedError
from shockproof.memory.error_log.redaction import Redactor
from shockproof.views.status_page import document
from shockproof.views.words import local_time, markup

__all__ = ["error_page"]


def error_page(error: CapturedError, redactor: Redactor) -> str:
    """The page. The source lines of the trace are there as soon as the log has written it; no file is read."""
    fields: dict[str, Any] = {
        name: redactor.text(value) if isinstance(value, str) else value
        for name, value in error.to_fields().items()
    }  # Any: JSON
    facts = [
        ("When", local_time(error.timestamp)),
        ("Severity", fields["severity"]),
        ("Service", fields["service_name"]),
        ("Function", fields["function_name"]),
        ("Retry", str(fields["retry_count"])),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{markup(value)}</dd>" for name, value in facts)
    context = fields["context"]
    more = "" if not context else f"<h2>Context</h2><pre>{_lines(json.dumps(context, indent=2))}</pre>"
    body = f"""<main class="one"><section aria-labelledby="error">
<p><a href="../status">Back to the status</a></p>
<h1 id="error">{markup(fields["error_type"])}</h1>
<p class="message">{_lines(fields["error_message"])}</p>
<dl class="facts">{rows}</dl>
<h2>Stack trace</h2>
<pre tabindex="0">{_lines(fields["stack_trace"] or "none")}</pre>
{more}</section></main>"""
    return document(f"{fields['error_type']} in {fields['service_name']}", body, root="")


def _lines(text: str) -> str:
    return "\n".join(map(markup, text.splitlines()))
