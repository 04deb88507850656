"""Global hooks that doctors of earlier tests, which nobody detached, have left in this process."""

from __future__ import annotations

import gc

from stabletrain.torch_tools import clip_calls, module_hooks, step_hooks


def remove_left_hooks() -> None:
    """Remove them, as if the earlier tests had run in another process."""
    gc.collect()
    for ref in module_hooks._open:
        if (hooks := ref()) is not None:
            hooks.close()
    module_hooks.forget_collected()
    step_hooks._listening.clear()
    while step_hooks._handles:
        step_hooks._handles.pop().remove()
    clip_calls._listening = ()
    clip_calls.ignore_clipping(lambda parameters, limit: None)
