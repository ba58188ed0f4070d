"""All that some workers and servers hold, table by table."""

import time
from collections.abc import AsyncIterator, Collection, Sequence

from persona_stream.audit.changelog_view import changelog_view
from persona_stream.audit.findings import Audit
from persona_stream.audit.held import Form, HeldAudit
from persona_stream.audit.holder import Holder
from persona_stream.holdings.routes import HoldingView
from persona_stream.serving.served import SERVED
from persona_stream.vocabulary.config import Settings
from persona_stream.vocabulary.errors import PersonaError
from persona_stream.vocabulary.topics import Topics
from persona_stream.worker.app import agent_specs


async def audit_processes(
    settings: Settings, holders: Sequence[Holder], tables: Collection[str]
) -> AsyncIterator[Audit]:
    """One audit for each holding of each process. Raises HolderError where one stops to answer."""
    by_changelog: dict[str, list[tuple[Holder, HoldingView, bool]]] = {}
    for holder in holders:
        answer = await holder.holdings()
        for view in answer.holdings:
            if view.table in tables and view.changelog.startswith(Topics(settings.namespace).changelog(view.table)):
                by_changelog.setdefault(view.changelog, []).append((holder, view, answer.stands_in == "source"))
    codecs = {spec.table: spec.codec for spec in agent_specs(settings, with_examples=False)}
    for topic, held in by_changelog.items():
        async with changelog_view(settings, topic) as changelog:
            await changelog.read()
            for holder, view, in_source in held:
                form = Form(bytes, codecs[view.table].decode) if in_source else _served(view.table)
                started_s = time.monotonic()
                try:
                    audit = await HeldAudit(holder, view, form, changelog, in_source=in_source).run()
                except PersonaError as error:
                    audit = Audit(view.table, str(holder.place), view.partition, failure=error.message)
                audit.seconds = time.monotonic() - started_s
                yield audit


def _served(table: str) -> Form:
    served = SERVED[table]
    return Form(served.project, served.decode)
