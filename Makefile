# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set up a virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Test processes; one thread each, so that two cores are not fought over.
JOBS ?= 2
STAMP := $(shell cksum pyproject.toml | cut -d ' ' -f 1)

.PHONY: demo test doctest shapes lint types imports check bench reproduce docs clean

demo: $(VENV)/.demo-$(STAMP)
	$(BIN)/binderclip demo --out demo

test: $(VENV)/.dev-$(STAMP) $(VENV)/.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# The examples in docstrings.
doctest: $(VENV)/.dev-$(STAMP) $(VENV)/.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --doctest-modules src/binderclip

# Tests of what has only true annotations so far, with every type and shape checked at every call. One process: the import
# hook does not reach the workers of xdist.
SHAPES ?= tests/adapt/few_shot/test_adapters.py tests/adapt/few_shot/test_ape.py tests/adapt/few_shot/test_gaussian.py \
	tests/adapt/few_shot/test_nearest.py tests/adapt/few_shot/test_sentence_adapter.py \
	tests/adapt/few_shot/test_tip_adapter.py tests/adapt/groups/test_last_layer.py tests/adapt/groups/test_training.py \
	tests/adapt/heads/test_inputs.py tests/adapt/heads/test_saving.py \
	tests/adapt/multi_label tests/adapt/visual_prompts tests/adapt/zero_shot tests/cli/shared tests/curate \
	tests/data/augment/test_augment.py tests/data/augment/test_cutout.py tests/data/augment/test_fill.py tests/data/augment/test_text.py tests/data/distort tests/data/formats \
	tests/data/labelled tests/data/made tests/data/sets/test_batches.py tests/data/sets/test_columnar.py \
	tests/data/sets/test_evalset.py tests/data/sets/test_folder.py tests/data/sets/test_named.py \
	tests/data/sets/test_packs.py tests/data/sets/test_sample.py tests/data/test_files.py tests/data/test_images.py \
	tests/data/test_moments.py tests/evaluate/probes/test_correspondence.py tests/evaluate/probes/test_objects.py \
	tests/evaluate/probes/test_robustness.py tests/landscape/test_abundance.py tests/evaluate/test_clicks.py tests/evaluate/test_groups_transfer.py \
	tests/evaluate/test_patch_affinity.py tests/evaluate/test_retrieval.py tests/evaluate/test_visual_prompts.py \
	tests/explain/decompose/test_concept_mapper.py tests/explain/decompose/test_heads.py tests/explain/decompose/test_text_span.py \
	tests/explain/gradient/test_extraction.py tests/explain/gradient/test_gradcam.py \
	tests/explain/gradient/test_meta_step.py \
	tests/explain/gradient/test_saliency.py tests/explain/mask/test_scores.py \
	tests/explain/words/test_misalignment.py tests/explain/engine tests/losses/dense \
	tests/losses/distribution tests/losses/gradient \
	tests/losses/test_ranking.py tests/losses/test_routing.py tests/losses/contrastive/test_cross_modal.py tests/losses/contrastive/test_distill.py tests/losses/contrastive/test_entailment.py \
	tests/losses/contrastive/test_geometry.py tests/losses/contrastive/test_hard_negatives.py tests/losses/contrastive/test_loss.py tests/losses/contrastive/test_macl.py tests/losses/contrastive/test_multi_view.py tests/losses/contrastive/test_refine.py \
	tests/losses/contrastive/test_scale.py tests/models/image_text tests/models/layers \
	tests/models/text tests/models/towers/test_base.py tests/models/towers/test_correlation.py \
	tests/models/towers/test_text.py tests/models/towers/test_tokens.py tests/optim/clip/clippers/test_adagc.py \
	tests/optim/clip/clippers/test_agc.py tests/optim/test_averaging.py tests/optim/test_groups.py \
	tests/optim/test_rules.py tests/optim/test_schedule.py tests/optim/test_space.py tests/privacy/accounting \
	tests/privacy/clipping tests/quality tests/search \
	tests/segment/metrics tests/segment/output tests/segment/parts tests/segment/refine \
	tests/segment/trained/test_cascade.py tests/segment/trained/test_declip.py \
	tests/segment/trained/test_mta_clip.py tests/segment/tubular tests/train/engine tests/train/feed tests/train/recipe/test_augmentation.py \
	tests/train/recipe/test_recipe.py tests/train/stages tests/vision
shapes: $(VENV)/.dev-$(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SHAPES) \
		"--jaxtyping-packages=binderclip,beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"

lint: $(VENV)/.dev-$(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

imports: $(VENV)/.dev-$(STAMP)
	$(BIN)/lint-imports

types: $(VENV)/.dev-$(STAMP)
	$(BIN)/mypy

check: lint imports types doctest shapes test

bench: $(VENV)/.dev-$(STAMP)
	$(BIN)/python -m benchmarks --out docs/BENCHMARKS.md

reproduce: $(VENV)/.dev-$(STAMP)
	$(BIN)/binderclip reproduce --all

docs: $(VENV)/.docs-$(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/generate/links.py site

clean:
	rm -rf $(VENV) demo runs site build dist

$(VENV)/.venv-ok:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "binderclip needs Python 3.10 or newer; say which: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.demo-$(STAMP): $(VENV)/.venv-ok
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

# The tests need what the demonstration needs, and more.
$(VENV)/.dev-$(STAMP): $(VENV)/.venv-ok
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.demo-$(STAMP)

# What the tests of the workbench look through: Debian's Chromium, and axe-core, which finds what people cannot read or
# reach. Where one of them cannot be had, those tests say so and are skipped; the next `make test` tries again.
BROWSERS := chromium-headless-shell chromium chromium-browser google-chrome
$(VENV)/.browser: $(VENV)/.venv-ok
	@which $(BROWSERS) 2>/dev/null | grep -q . \
		|| { apt-get update -qq && apt-get install -y -qq chromium-headless-shell; } >/dev/null 2>&1 \
		|| echo "no Chromium here, and none could be installed: the browser tests will be skipped" >&2
	@test -f $(VENV)/axe-core/axe.min.js \
		|| { mkdir -p $(VENV)/axe-core && cd $(VENV)/axe-core && npm pack --silent axe-core@4 \
			&& tar -xzf axe-core-*.tgz --strip-components=1 package/axe.min.js package/LICENSE; } >/dev/null 2>&1 \
		|| echo "no axe-core here, and npm brought none: contrast and labels will not be checked" >&2
	@if which $(BROWSERS) 2>/dev/null | grep -q . && test -f $(VENV)/axe-core/axe.min.js; then touch $@; fi

$(VENV)/.docs-$(STAMP): $(VENV)/.venv-ok
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@
