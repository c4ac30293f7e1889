PYTHON ?= python3
BIN := .venv/bin
DEMO ?= runs/demo_$(shell date +%Y-%m-%d_%H-%M-%S)
SWEEP ?= runs/photos
SHELF ?= runs/poolings
RUN ?= runs/photos_gem
PHOTOS ?= photos
WEIGHTS ?= mobilenetv2_100.safetensors
POOLINGS ?= gap,{gem:{p:2}},gem,{gem:{p:5}},{gem:{p:10}},max,log_sum_exp,rmac,regional_gem,\
	spatial_pyramid,{spatial_pyramid:{reduce:max}},mean_token,max_token,last_token

SETTINGS ?= runs/settings
JUDGE = PHOTOS=$(PHOTOS) WEIGHTS=$(WEIGHTS) $(BIN)/python eval.py -m experiment=photos_settings \
	'extract.scales=[1.0],[1.0,0.7071067811865476,0.5]' hydra.sweep.dir=$(SETTINGS)
SHRINK = whitening=pca_shrinkage whitening.dim=256
EXPAND = 'rerank=[alpha_qe]' rerank.alpha_qe.k=10
RERANK = 'rerank=[database_augmentation],[k_reciprocal],[diffusion],[superglobal]'

STUDY ?= runs/gem_vs_gap
LOSSES ?= runs/losses
FACTORS ?= runs/factors
LEARN = PHOTOS=$(PHOTOS) WEIGHTS=$(WEIGHTS) $(BIN)/python train.py -m experiment=photos pooling=gem seed=0,1,2 \
	extract.batch_size=4 resume=auto hydra.sweep.dir=$(FACTORS)
MINED = loss=tuple_contrastive sampler=tuples sampler.queries=125 sampler.pool=884
MIXED = 'data.resolutions=[224,320,448]'
BASE = 'gem (loss=arcface, sampler=landmarks)'
BY_LOSS = --rows pooling loss --columns benchmark resolution
WHITE = head=whitening head.start=pca head.out_dim=256

.PHONY: help setup demo study test check photos losses factors poolings settings export figures clean

help:            ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

setup: .venv/ready  ## make .venv from the pinned requirements

.venv/ready: .venv/pinned pyproject.toml setup.py
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/pinned: requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --progress-bar off -r requirements.lock
	touch $@

demo: setup      ## train gap, max, gem and strided_conv on the embedded landmarks, make the report
	$(BIN)/python train.py -m experiment=demo pooling=gap,max,gem,strided_conv hydra.sweep.dir=$(DEMO)
	$(BIN)/python -m retrieval.report $(DEMO)
	@cat $(DEMO)/report.md
	@echo "The table, the curve of p and ranked photos: $(CURDIR)/$(DEMO)/report.html"

study: setup     ## the demo with three seeds: GeM against GAP with intervals and tests
	$(BIN)/python train.py experiment=gem_vs_gap hydra.sweep.dir=$(STUDY)
	$(BIN)/python -m retrieval.report $(STUDY) --compare gem gap

test: setup      ## all tests (those marked gpu skip without one)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

check: setup     ## lint and type-check, the image's files too
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml

photos: setup    ## the measured sweep: PHOTOS=DIR with train/ and test/, WEIGHTS=FILE
	PHOTOS=$(PHOTOS) WEIGHTS=$(WEIGHTS) $(BIN)/python train.py -m experiment=photos \
		pooling=gap,max,gem,strided_conv seed=0,1,2 hydra.sweep.dir=$(SWEEP)
	$(BIN)/python -m retrieval.report $(SWEEP)

losses: setup    ## four poolings with two losses, in short runs: PHOTOS=DIR with train/, test/, WEIGHTS=FILE
	PHOTOS=$(PHOTOS) WEIGHTS=$(WEIGHTS) $(BIN)/python train.py -m experiment=photos trainer.max_epochs=2 seed=0,1 \
		pooling=gap,max,gem,strided_conv loss=arcface,smooth_ap 'extract.resolutions=[224,320]' hydra.sweep.dir=$(LOSSES)
	$(BIN)/python -m retrieval.report $(LOSSES) $(BY_LOSS)

factors: setup   ## what loss, mining, mixed resolution and a whitening layer add: PHOTOS=DIR with train/, test/, WEIGHTS=FILE
	$(LEARN)/base loss=arcface
	$(LEARN)/loss loss=smooth_ap
	$(LEARN)/mining $(MINED)
	$(LEARN)/mixed loss=arcface $(MIXED)
	$(LEARN)/whitening loss=arcface $(WHITE)
	$(BIN)/python -m retrieval.report $(FACTORS) --against $(BASE)

poolings: setup  ## every pooling without weights, off the shelf, in one pass: PHOTOS=DIR with test/, WEIGHTS=FILE
	$(BIN)/python eval.py backbone=mobilenetv2_tf backbone.weights=$(WEIGHTS) output_dir=$(SHELF) \
		benchmark=folder benchmark.folder.root=$(PHOTOS)/test 'evaluate.poolings=[$(POOLINGS)]'
	$(BIN)/python -m retrieval.report $(SHELF)

settings: setup  ## scales, whitening and re-ranking on one network: PHOTOS=DIR with train/ and test/, WEIGHTS=FILE
	$(JUDGE)/none
	$(JUDGE)/pca whitening=pca whitening.dim=64
	$(JUDGE)/shrink $(SHRINK)
	$(JUDGE)/learned whitening=learned
	$(JUDGE)/expand $(EXPAND)
	$(JUDGE)/rerank $(RERANK)
	$(JUDGE)/shrink_expand $(SHRINK) $(EXPAND)
	$(JUDGE)/shrink_rerank $(SHRINK) $(RERANK)
	$(BIN)/python -m retrieval.report $(SETTINGS) --against 'gem, 1 scale'

export: setup    ## a run in every form, judged: RUN=DIR, PHOTOS=DIR with test/
	$(BIN)/python -m retrieval.export run=$(RUN) 'format=[safetensors,onnx,torch_export,backbone]' \
		'dtype=[float32,float16,bfloat16,int8]' benchmark=folder benchmark.folder.root=$(PHOTOS)/test

figures: setup   ## tables and pictures of README.md from STUDY=, SWEEP=, LOSSES=, FACTORS=, SHELF=, SETTINGS=, RUN=DIR
	$(BIN)/python -m retrieval.report $(STUDY) --compare gem gap --insert README.md --marker study \
		--only 'mAP, Medium' 'minus' --charts $(STUDY)/charts
	cp $(addprefix $(STUDY)/charts/,p.svg resolution.svg ranking.png) docs/demo
	$(BIN)/python -m retrieval.report $(SWEEP) --insert README.md --marker photos --only mAP 'mP@k' 'recall@k' --charts $(SWEEP)/charts
	$(BIN)/python -m retrieval.report $(LOSSES) $(BY_LOSS) --insert README.md --marker losses --only 'mAP by'
	$(BIN)/python -m retrieval.report $(SHELF) --insert README.md --marker poolings --only mAP 'mP@k' 'recall@k' --charts $(SHELF)/charts
	$(BIN)/python -m retrieval.report $(SETTINGS) --against 'gem, 1 scale' --insert README.md --marker settings \
		--only 'intervals' 'minus'
	$(BIN)/python -m retrieval.report $(FACTORS) --against $(BASE) --insert README.md --marker factors \
		--only 'intervals' 'minus'
	$(BIN)/python -m retrieval.report $(RUN) --insert README.md --marker export --only 'Files of'
	mkdir -p docs/photos && cp $(SWEEP)/charts/p.svg $(SWEEP)/charts/resolution.svg docs/photos
	$(BIN)/python -c "from pathlib import Path; from retrieval.data.landmarks import contact_sheet as sheet; \
		sheet(Path.home() / '.cache/retrieval/landmarks-0', 6, 8).save('docs/landmarks.jpg', quality=80)"

clean:           ## remove the environment
	rm -rf .venv
