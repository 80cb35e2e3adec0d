"""Copies between a device and the host, which on CUDA run beside the device's other work."""

from __future__ import annotations

import torch


class Transfers:
    """Copies that are under way.

    On CUDA they run on a stream of their own. A copy begins when everything is done that its
    device's current stream had to do until then, because that computes the source, or may still
    use the memory that the target has got. Sources are held until the current stream waits for the
    copy: nothing can then be written over what is still being read.
    """

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._under_way: list[tuple[torch.device, torch.cuda.Event, torch.Tensor]] = []

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Begin to copy ``tensor`` to the host; its value is there for :meth:`to_device`."""
        if not _is_streamed(tensor, tensor.device):
            return tensor.to('cpu')
        target = torch.empty_like(tensor, device='cpu', pin_memory=True)
        self._copy(target, tensor, tensor.device)
        return target

    def to_device(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Begin to copy ``tensor`` to ``device``; its value is there after :meth:`wait`."""
        if not _is_streamed(tensor, device):
            return tensor.to(device)
        target = torch.empty_like(tensor, device=device)
        self._copy(target, tensor, device)
        return target

    def wait(self) -> None:
        """Let the current streams wait for all copies; the program itself does not wait."""
        for device, event, _ in self._under_way:
            torch.cuda.current_stream(device).wait_event(event)
        self._under_way.clear()

    def _copy(self, target: torch.Tensor, source: torch.Tensor, device: torch.device) -> None:
        # One stream for both directions, so that a value is on the host before it leaves again.
        stream = self._streams.get(device)
        if stream is None:
            stream = self._streams[device] = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        done = torch.cuda.Event()
        done.record(stream)
        self._under_way.append((device, done, source))


def _is_streamed(tensor: torch.Tensor, device: torch.device) -> bool:
    """Tell whether a copy from or to ``device`` can run on a stream of CUDA."""
    # Without CUDA, a tensor on it is a fake one.
    return device.type == 'cuda' and tensor.layout is torch.strided and torch.cuda.is_available()
