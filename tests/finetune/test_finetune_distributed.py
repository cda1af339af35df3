"""Two processes that train one adapter, started as `accelerate launch` starts them, on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from finetune_rows import colours_data

import mmagent.finetune
from mmagent import ChatMMAgent
from mmagent.errors import UsageError

_CPU = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


def _two_processes(folder, base, program, env):
    """Three steps in two processes; the last one has no picture in one of them."""
    colours_data(folder / "data")
    # What `accelerate launch` runs for several GPUs; by itself it starts CPU processes with MPI.
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = {"base": base, "data": "data/rows.jsonl", "output": "out", "steps": 3,
               "batch": 2, "eval-every": 3, "device": "cpu", "lora-r": 4}  # fmt: skip
    named = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    done = subprocess.run(
        [*run, *program, "finetune", "chat", *named],
        cwd=folder,
        env=env | _CPU,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def _log(folder):
    return [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]


def _answers(folder, base):
    chat = ChatMMAgent(model=str(base), adapter=str(folder / "out" / "adapter"), max_tokens=3)
    return chat.invoke("Hi").usage_metadata["output_tokens"]


@pytest.fixture(scope="module")
def copied(tiny_llava, tmp_path_factory):
    """A run that copies the model to both processes, and what it said."""
    folder = tmp_path_factory.mktemp("copied")
    return folder, _two_processes(folder, tiny_llava, ["-m", "mmagent"], dict(os.environ))


def test_two_processes_write_one_adapter_that_loads(copied, tiny_llava):
    folder, said = copied
    assert said.count("trained 3 steps") == 1  # one of the two speaks
    assert "a run of several processes leaves that to" in said
    assert [line["step"] for line in _log(folder) if "eval_loss" in line] == [3]
    assert _answers(folder, tiny_llava) > 0


def _launched():
    """The environment that `accelerate launch --config_file fsdp.yaml` gives its processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    file = Path(mmagent.finetune.__file__).with_name("fsdp.yaml")
    options = ["--config_file", str(file), "--main_process_port", "0", "-m", "mmagent"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(options))
    return prepare_multi_gpu_env(arguments)


def test_two_processes_with_the_weights_spread_over_them(copied, tiny_llava, tmp_path):
    env = _launched()
    assert env["ACCELERATE_USE_FSDP"] == "true"
    assert env["FSDP_VERSION"] == "2"
    program = str(Path(__file__).with_name("fsdp_on_cpu.py"))
    said = _two_processes(tmp_path, tiny_llava, [program], env)
    assert said.count("trained 3 steps") == 1
    parts = [json.loads((tmp_path / f"sharded-{rank}.json").read_text()) for rank in (0, 1)]
    assert [part["whole"] for part in parts] == [[], []]
    assert sum(part["here"] for part in parts) == parts[0]["all"]
    assert all(part["here"] < 0.6 * part["all"] for part in parts)
    layers = [name for name in parts[0]["units"] if ".layers." in name]
    assert [name.split(".language_model.")[-1] for name in layers] == ["layers.0", "layers.1"]

    # The same numbers as with a model in each process.
    for name in ("loss", "grad_norm", "eval_loss"):
        logs = _log(tmp_path), _log(copied[0])
        found, other = ([line[name] for line in log if name in line] for log in logs)
        assert found == pytest.approx(other, rel=1e-3)
        assert len(found) == (1 if name == "eval_loss" else 3)
    from safetensors.torch import load_file

    saved, wanted = (
        load_file(folder / "out" / "adapter" / "adapter_model.safetensors")
        for folder in (tmp_path, copied[0])
    )
    assert saved.keys() == wanted.keys()
    for name in wanted:
        assert saved[name].numpy() == pytest.approx(wanted[name].numpy(), abs=1e-4)
    assert _answers(tmp_path, tiny_llava) > 0


def _trainer(model):
    from accelerate import FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=True)
    state = SimpleNamespace(fsdp_plugin=plugin)
    return SimpleNamespace(model=model, accelerator=SimpleNamespace(state=state)), plugin


def test_what_is_gathered_and_sent_depends_on_the_model(tiny_llava, tiny_fastvlm):
    from transformers import AutoModelForImageTextToText

    from mmagent.finetune.sharding import prepare_sharding

    for folder, sends in ((tiny_llava, True), (tiny_fastvlm, False)):  # it has batch norms
        trainer, plugin = _trainer(AutoModelForImageTextToText.from_pretrained(folder))
        prepare_sharding(trainer)
        assert plugin.transformer_cls_names_to_wrap == ["LlamaDecoderLayer"]
        assert plugin.cpu_ram_efficient_loading is sends
        assert "FULL" in str(plugin.state_dict_type)


def test_a_torch_that_would_wait_for_ever_is_refused(tiny_llava, monkeypatch):
    from torch.distributed.fsdp import FSDPModule
    from transformers import AutoModelForImageTextToText

    from mmagent.finetune.sharding import prepare_sharding

    monkeypatch.delattr(FSDPModule, "set_reduce_scatter_unused_params", raising=False)
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava)
    with pytest.raises(UsageError, match=r"newer torch.*freeze\.projector"):
        prepare_sharding(_trainer(model)[0])
    model.requires_grad_(False)
    model.get_output_embeddings().requires_grad_(True)
    prepare_sharding(_trainer(model)[0])  # all processes use the language model
