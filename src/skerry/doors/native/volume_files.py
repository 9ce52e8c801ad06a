"""The operations on the files of volumes that can be opened."""

from __future__ import annotations

from skerry.doors.native import transfers
from skerry.doors.native.streams import Stream
from skerry.engine.engine import Engine
from skerry.model.ids import VolumeId
from skerry.wire import native
from skerry.wire.frames import FrameType


async def run(opened: native.OpenInVolume, stream: Stream, engine: Engine) -> None:
    """Do what was asked for, up to the last word; raises what the client is to be told as ERROR."""
    volume, volumes = VolumeId(opened.volume), engine.volumes
    if isinstance(opened, native.OpenVolumeRead):
        await transfers.send_content(await volumes.read(volume, opened.path, commit=opened.commit), stream)
    elif isinstance(opened, native.OpenVolumeWrite):
        size = await volumes.write(volume, opened.path, transfers.incoming(stream), mode=opened.mode)
        await stream.say(FrameType.RESULT, native.Written(size=size))
    elif isinstance(opened, native.OpenVolumeList):
        found = volumes.files(volume, opened.path, recursive=opened.recursive, commit=opened.commit)
        await transfers.send_entries(found, stream)
    elif isinstance(opened, native.OpenVolumeStat):
        told = await volumes.stat(volume, opened.path, commit=opened.commit)
        await stream.say(FrameType.RESULT, transfers.entry(told))
    else:
        await volumes.remove_file(volume, opened.path, recursive=opened.recursive)
        await stream.say(FrameType.RESULT, native.Done())
