"""The process that decodes and writes users' files, and measures boxes: disposable, and bounded in memory, CPU time
and file size.

A hostile file can abort a decoder (an allocation failure in compiled code), hang it or eat all memory. Here that
ends one small process; the engine starts another and tells the user why.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import sys
from collections.abc import Callable

import numpy as np

from service import formats
from service import measure as measures
from service.engine import shared
from service.engine.channel import Channel, ChannelClosed, Message, close_all
from service.engine.child import inherited_channel
from service.errors import InternalError, MalformedFile, ReaderFailed, ServiceError, to_message
from service.formats.format import Options
from service.settings import Settings, settings
from service.values import PointCloud, Segmentation, measurement_message, segmentation_from

RETIRE_ABOVE_BYTES = 512 << 20


class _Descriptors(list[int]):
    """Descriptors received with a message, closed at the end of the work."""

    def __enter__(self) -> _Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        close_all(self)


def read(message: Message, body: int) -> tuple[Message, int]:
    """Decode a file into shared memory.

    Args:
        message: `format`: a word; `options`: the fields of `formats.Options`; `metres_per_unit`: by which the
            coordinates are multiplied.
        body: descriptor of the file's bytes.

    Returns:
        A reply with the arrays' layout, and the arrays' descriptor.
    """
    source = formats.by_name(message["format"])
    cloud = formats.read(shared.view(body), source, _options(message))
    unit = message.get("metres_per_unit", 1.0)
    coord = cloud.coord if unit == 1 else cloud.coord * unit
    descriptor, layout = shared.pack(
        {
            "coord": coord,
            "color": cloud.color,
            "normal": cloud.normal,
            "intensity": cloud.intensity,
            "superpoint": cloud.superpoint,
        }
    )
    return {"layout": layout, "notes": list(cloud.notes)}, descriptor


def write(message: Message, body: int, result: int) -> tuple[Message, int]:
    """Write labels into a file: the user's own where source and target are one format, else a new one.

    Args:
        message: `format`, `options`, `target`: the format to write; `layout`, `segmentation`: the labels.
        body: descriptor of the user's file.
        result: descriptor of the labels' arrays.
    """
    source, target = formats.by_name(message["format"]), formats.by_name(message["target"])
    segmentation: Segmentation = segmentation_from(message["segmentation"], shared.unpack(result, message["layout"]))
    descriptor = shared.create()
    try:
        with open(os.dup(descriptor), "wb") as out:
            if formats.keeps(source, target):
                formats.annotate(shared.view(body), target, segmentation, out, _options(message))
            else:
                cloud: PointCloud = formats.read(shared.view(body), source, _options(message))
                formats.write(cloud, segmentation, target, out)
        shared.seal(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return {}, descriptor


def measure(message: Message, cloud: int, result: int) -> tuple[Message, int]:
    """Measure the boxes of a labelled cloud.

    Args:
        message: `cloud` and `labels`: the layouts of their arrays; `to_metres`: by which the cloud's coordinates are
            multiplied; `segmentation`; `frame`: the fields of `measure.Frame`; `drawing`: none, ply or png.
        cloud: descriptor of the cloud's arrays.
        result: descriptor of the labels' arrays.

    Returns:
        A reply with the `measurement`, and the descriptor of the drawing, empty where none is asked for.
    """
    coord = shared.unpack(cloud, message["cloud"])["coord"] * message["to_metres"]
    segmentation = segmentation_from(message["segmentation"], shared.unpack(result, message["labels"]))
    found = measures.measure(coord, segmentation, measures.Frame(**message["frame"]))
    descriptor = shared.create()
    try:
        if message["drawing"] != "none":
            from service.engine import drawing  # few requests draw, and the library takes memory

            with open(os.dup(descriptor), "wb") as out:
                drawing.write(message["drawing"], coord / message["frame"]["metres_per_unit"], segmentation, found, out)
        shared.seal(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return {"measurement": measurement_message(found)}, descriptor


def _options(message: Message) -> Options:
    options = dict(message["options"])
    if options.get("columns") is not None:
        options["columns"] = tuple(options["columns"])
    return Options(**options)


_WORK: dict[str, Callable[..., tuple[Message, int]]] = {"read": read, "write": write, "measure": measure}


def _work(message: Message, descriptors: list[int], limits: Settings) -> tuple[Message, tuple[int, ...]]:
    _grant_cpu(limits.reader_cpu_s)
    try:
        reply, descriptor = _WORK[message["op"]](message, *descriptors)
        return reply, (descriptor,)
    except ServiceError as error:
        return _refusal(error)
    except MemoryError:
        return _refusal(_too_much(limits))
    except OSError as error:
        # What mmap and writing say at the limits on address space and file size.
        if error.errno in (errno.ENOMEM, errno.EFBIG):
            return _refusal(_too_much(limits))
        return _refusal(InternalError(f"the file could not be decoded or written: {error}"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Decoders in other languages raise what is no Exception (pyo3's PanicException).
        sys.excepthook(type(error), error, error.__traceback__)
        if message["op"] == "measure":
            return _refusal(InternalError(f"the boxes could not be measured: {type(error).__name__}"))
        return _refusal(MalformedFile(f"the decoder failed on the file: {error}"))


def _too_much(limits: Settings) -> ReaderFailed:
    allowed = limits.reader_memory_bytes >> 20
    return ReaderFailed(f"decoding or writing the file takes more than {allowed} MB of memory")


def _refusal(error: ServiceError) -> tuple[Message, tuple[int, ...]]:
    return {"error": to_message(error)}, ()


def _grant_cpu(seconds: float) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _limit(limits: Settings) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
        resource.setrlimit(kind, (limits.reader_memory_bytes, limits.reader_memory_bytes))


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _serve(channel: Channel, limits: Settings) -> None:
    channel.send({"ready": True})
    while True:
        message, received = channel.receive()
        channel.send({"taken": True})  # from here on, if this process dies, it died of this file
        with _Descriptors(received) as descriptors:
            reply, answers = _work(message, descriptors, limits)
        with _Descriptors(answers):
            last = {"retire": _peak_bytes() > RETIRE_ABOVE_BYTES}
            try:
                channel.send({**reply, **last}, answers)
            except InternalError as error:  # the reply is too long
                channel.send({**_refusal(error)[0], **last})
        # An error and its traceback hold each other, and the file with them: an idle reader keeps no user's file.
        gc.collect()


def main() -> None:
    """Answer the engine's requests until it goes away."""
    limits = settings()
    _limit(limits)
    np.seterr(all="ignore")
    try:
        _serve(inherited_channel(), limits)
    except ChannelClosed:
        return


if __name__ == "__main__":
    main()
