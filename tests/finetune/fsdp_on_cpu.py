"""`mmagent` in processes on the CPU whose weights accelerate spreads as it does over GPUs.

Accelerate has FSDP for processes with accelerators alone: `AcceleratorState` looks for them in a
list that leaves CPUs out, and takes plain data parallel otherwise. Only that choice is made here;
all that follows from it is accelerate's and torch's own. Each process writes `sharded-RANK.json`:
which weights are spread, and which modules are gathered one by one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from accelerate import accelerator as accelerating
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_state: Any = AcceleratorState
_init = _state.__init__
_prepare: Any = accelerating.fsdp2_prepare_model


def _with_cpus(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    _init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU and fsdp_plugin is not None:
        self.distributed_type = DistributedType.FSDP
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def _told(accelerator: Any, model: Any) -> Any:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    model = _prepare(accelerator, model)
    found = {
        "whole": [n for n, w in model.named_parameters() if not isinstance(w, DTensor)],
        "here": sum(w.to_local().numel() for w in model.parameters() if isinstance(w, DTensor)),
        "all": sum(w.numel() for w in model.parameters()),
        "units": [n for n, m in model.named_modules() if isinstance(m, FSDPModule)],
    }
    Path(f"sharded-{os.environ['RANK']}.json").write_text(json.dumps(found), "utf-8")
    return model


if __name__ == "__main__":
    _state.__init__ = _with_cpus
    accelerating.fsdp2_prepare_model = _told
    from mmagent.cli import main

    main()
