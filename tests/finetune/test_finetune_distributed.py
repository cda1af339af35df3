"""Two processes that train one adapter, started as `accelerate launch` starts them, on the CPU."""

import json
import os
import subprocess
import sys

from finetune_rows import colours_data


def test_two_processes_write_one_adapter_that_loads(tiny_llava, tmp_path):
    colours_data(tmp_path / "data")
    # What `accelerate launch` runs for several GPUs; by itself it starts CPU processes with MPI.
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = {"base": tiny_llava, "data": "data/rows.jsonl", "output": "out", "steps": 3,
               "batch": 2, "eval-every": 3, "device": "cpu", "lora-r": 4}  # fmt: skip
    named = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [*run, "-m", "mmagent", "finetune", "chat", *named],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert said.count("trained 3 steps") == 1  # one of the two speaks
    assert "a run of several processes leaves that to" in said
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_loss" in line] == [3]
    from mmagent import ChatMMAgent

    chat = ChatMMAgent(
        model=str(tiny_llava), adapter=str(tmp_path / "out" / "adapter"), max_tokens=3
    )
    assert chat.invoke("Hi").usage_metadata["output_tokens"] > 0
