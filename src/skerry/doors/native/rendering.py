"""From the model to answers, and from bodies to the model."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

from skerry.doors.native import payloads
from skerry.engine.trust import Trust
from skerry.model.errors import InvalidError
from skerry.model.ids import AppId, ImageId, VolumeId
from skerry.model.sandboxes import ImageView, ProcessView, SandboxFilter, SandboxView
from skerry.model.specs import HostAccess, Resources, SandboxSpec, Terminal
from skerry.model.text import escaped
from skerry.model.volumes import CommitView, VolumeMount, VolumeView


def host_access(body: payloads.HostAccessBody, trust: Trust) -> HostAccess:
    """Return the access with its bundle; a digest whose bytes never came is a ConflictError that asks for them."""
    digest = body.ca_bundle_sha256
    return HostAccess(env=body.env, ca_bundle=b"" if digest is None else trust.get(digest))


def resources(body: payloads.ResourcesBody, defaults: Resources) -> Resources:
    """Return the defaults with what was asked for; a request alone raises a default limit that lies below it."""
    given = {
        name: value for name in (one.name for one in fields(Resources)) if (value := getattr(body, name)) is not None
    }
    asked = replace(defaults, **given)
    return replace(
        asked,
        cpu_limit=asked.cpu_limit if body.cpu_limit is not None else max(asked.cpu_limit, asked.cpu),
        memory_limit_mib=asked.memory_limit_mib
        if body.memory_limit_mib is not None
        else max(asked.memory_limit_mib, asked.memory_mib),
        cpu=asked.cpu if body.cpu is not None else min(asked.cpu, asked.cpu_limit),
        memory_mib=asked.memory_mib if body.memory_mib is not None else min(asked.memory_mib, asked.memory_limit_mib),
    )


def sandbox_spec(body: payloads.SandboxBody, defaults: Resources, trust: Trust) -> SandboxSpec:
    return SandboxSpec(
        image=ImageId(body.image),
        entrypoint=body.entrypoint,
        app=None if body.app is None else AppId(body.app),
        name=body.name,
        tags=body.tags,
        env=body.env,
        workdir=body.workdir,
        user=body.user,
        terminal=None if body.terminal is None else _terminal(body.terminal),
        lifetime_s=body.lifetime_s,
        idle_timeout_s=body.idle_timeout_s,
        resources=resources(body.resources, defaults),
        network=body.network,
        isolation=body.isolation,
        volumes=tuple(
            VolumeMount(volume=VolumeId(one.volume), path=one.path, read_only=one.read_only) for one in body.volumes
        ),
        host_access=host_access(body.host_access, trust),
    )


def sandbox_filter(query: payloads.SandboxesQuery) -> SandboxFilter:
    return SandboxFilter(
        app=None if query.app is None else AppId(query.app),
        name=query.name,
        tags=dict(_tag(text) for text in query.tag),
        include_ended=query.include_ended,
        before=query.before,
        limit=query.limit,
    )


def _tag(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise InvalidError(f"tag={text!r} is not of the form KEY=VALUE")
    return key, value


def _terminal(body: payloads.TerminalBody) -> Terminal:
    return Terminal(rows=body.rows, columns=body.columns, term=body.term)


def sandbox(view: SandboxView) -> payloads.SandboxAnswer:
    spec = view.spec
    return payloads.SandboxAnswer(
        id=view.id,
        spec=payloads.SpecAnswer(
            image=spec.image,
            entrypoint=spec.entrypoint,
            app=spec.app,
            name=spec.name,
            tags=dict(spec.tags),
            env=dict(spec.env),
            secrets=spec.secrets,
            workdir=spec.workdir,
            user=spec.user,
            terminal=spec.terminal,
            lifetime_s=spec.lifetime_s,
            idle_timeout_s=spec.idle_timeout_s,
            resources=spec.resources,
            network=spec.network,
            isolation=spec.isolation,
            volumes=spec.volumes,
        ),
        state=view.state,
        node=view.node,
        created_at=view.created_at,
        app_name=view.app_name,
        started_at=view.started_at,
        ended_at=view.ended_at,
        exit=None if view.exit is None else replace(view.exit, evidence=escaped(view.exit.evidence)),
        entrypoint=view.entrypoint,
        stages=view.stages,
        idle_since=view.idle_since,
        volumes_lost=view.volumes_lost,
    )


def process(view: ProcessView) -> payloads.ProcessAnswer:
    return payloads.ProcessAnswer(
        id=view.id,
        sandbox=view.sandbox,
        argv=view.argv,
        started_at=view.started_at,
        terminal=view.terminal,
        exit=None if view.exit is None else replace(view.exit, evidence=escaped(view.exit.evidence)),
    )


def volume(view: VolumeView, disk_bytes: int) -> payloads.VolumeAnswer:
    return payloads.VolumeAnswer(**asdict(view), disk_bytes=disk_bytes)


def commit(view: CommitView) -> payloads.CommitAnswer:
    return payloads.CommitAnswer(**asdict(view))


def image(view: ImageView) -> payloads.ImageAnswer:
    return payloads.ImageAnswer(**{**asdict(view), "env": dict(view.env)})
